-- severity: warn
-- The views do not know a channel or status yet. Twilio may have added it.
with seen as (
    select
        channel,
        conversion_status,
        verification_status,
        message_status,
        count(*) as attempts
    from stg_attempts
    where read_at >= getvariable('changed_since')
    group by channel, conversion_status, verification_status, message_status
),

found as (
    select
        'channel' as field,
        channel as value,
        coalesce(channel, '') in ('sms', 'call', 'email', 'whatsapp', 'rbm') as is_known,
        attempts
    from seen
    union all
    select
        'conversion_status' as field,
        conversion_status as value,
        coalesce(conversion_status, '') in ('converted', 'unconverted') as is_known,
        attempts
    from seen
    union all
    select
        'verification_status' as field,
        verification_status as value,
        verification_status in ('confirmed', 'unconfirmed', 'expired') as is_known,
        attempts
    from seen
    union all
    select
        'message_status' as field,
        message_status as value,
        message_status in (
            'queued', 'sending', 'sent', 'failed', 'delivered', 'undelivered', 'receiving',
            'received', 'accepted', 'scheduled', 'read', 'partially_delivered', 'canceled',
            'in-progress', 'completed', 'busy', 'no-answer', 'ringing'
        ) as is_known,
        attempts
    from seen
)

select
    field,
    value,
    cast(sum(attempts) as bigint) as attempts
from found
where not is_known
group by field, value
order by field, value;
