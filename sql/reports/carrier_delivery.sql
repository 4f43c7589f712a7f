create or replace view carrier_delivery as
with errors as (
    select
        created_date,
        country,
        mcc,
        mnc,
        carrier,
        channel,
        error_code,
        sum(attempts) as attempts,
        coalesce(sum(attempts) filter (where delivery_outcome = 'delivered'), 0) as delivered,
        coalesce(sum(attempts) filter (where delivery_outcome = 'failed'), 0) as failed,
        coalesce(sum(attempts) filter (where delivery_outcome = 'pending'), 0) as pending,
        coalesce(sum(attempts) filter (where delivery_outcome = 'unknown'), 0) as unknown,
        sum(mature_attempts) as mature_attempts,
        sum(converted_attempts) as converted_attempts
    from daily_attempts
    group by created_date, country, mcc, mnc, carrier, channel, error_code
),

ranked as (
    select
        created_date,
        country,
        mcc,
        mnc,
        carrier,
        channel,
        error_code,
        attempts,
        delivered,
        failed,
        pending,
        unknown,
        mature_attempts,
        converted_attempts,
        row_number() over (
            partition by created_date, country, mcc, mnc, carrier, channel
            order by
                case when error_code is null then 1 else 0 end asc, attempts desc, error_code asc
        ) as place
    from errors
)

select
    created_date,
    country,
    mcc,
    mnc,
    carrier,
    channel,
    cast(sum(attempts) as bigint) as attempts,
    cast(sum(delivered) as bigint) as delivered,
    cast(sum(failed) as bigint) as failed,
    cast(sum(pending) as bigint) as pending,
    cast(sum(unknown) as bigint) as unknown,
    sum(delivered) / nullif(sum(delivered) + sum(failed), 0) as delivery_rate,
    cast(sum(mature_attempts) as bigint) as mature_attempts,
    cast(sum(converted_attempts) as bigint) as converted_attempts,
    sum(converted_attempts) / nullif(sum(mature_attempts), 0) as attempt_conversion_rate,
    max(error_code) filter (where place = 1) as top_error_code
from ranked
group by created_date, country, mcc, mnc, carrier, channel;

comment on view carrier_delivery is
'One row per day, country, network (mcc, mnc, carrier) and channel.';
comment on column carrier_delivery.created_date is 'Day of creation in settings.timezone.';
comment on column carrier_delivery.country is 'Destination country; unknown for e-mail.';
comment on column carrier_delivery.mcc is 'Mobile country code, text with its leading zeros.';
comment on column carrier_delivery.mnc is 'Mobile network code, text with its leading zeros.';
comment on column carrier_delivery.carrier is 'Name of the destination network.';
comment on column carrier_delivery.channel is 'Channel of the attempts.';
comment on column carrier_delivery.attempts is 'All attempts, mature or not.';
comment on column carrier_delivery.delivered is 'Attempts with delivery_outcome delivered.';
comment on column carrier_delivery.failed is 'Attempts with delivery_outcome failed.';
comment on column carrier_delivery.pending is
'Attempts without a final receipt that are not settled: the receipt may still come.';
comment on column carrier_delivery.unknown is
'Settled attempts that never got a final receipt.';
comment on column carrier_delivery.delivery_rate is
'delivered / (delivered + failed), mature or not; null if both are 0.';
comment on column carrier_delivery.mature_attempts is
'Attempts that were read at age settings.code_validity or later.';
comment on column carrier_delivery.converted_attempts is 'Mature attempts marked converted.';
comment on column carrier_delivery.attempt_conversion_rate is
'converted_attempts / mature_attempts; null if there are none. It depends on whether Twilio marks one or all attempts of a verification.';
comment on column carrier_delivery.top_error_code is
'The most frequent error code (the first in text order if several are); null without errors.';
