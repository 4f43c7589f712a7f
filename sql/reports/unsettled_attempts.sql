create or replace view unsettled_attempts as
with newest as (
    select max(read_at) as read_at
    from stg_attempts
),

aged as (
    select
        a.channel,
        a.country,
        a.price,
        a.delivery_outcome,
        (epoch_us(n.read_at) - epoch_us(a.created_at)) / 3600e6 as hours,
        s.retention / 3600.0 as retention
    from verification_attempts as a
    cross join newest as n
    cross join settings as s
    where not a.is_settled
)

select
    channel,
    country,
    case
        when hours < 1 then '0 to 1 h'
        when hours < 24 then '1 to 24 h'
        when hours < 72 then '24 to 72 h'
        when hours < retention then '72 h to 30 d'
        else 'over 30 d'
    end as age_bucket,
    count(*) as attempts,
    count(*) filter (where price is null) as without_price,
    count(*) filter (where delivery_outcome = 'pending') as without_receipt
from aged
group by channel, country, age_bucket;

comment on view unsettled_attempts is
'One row per channel, country and age: attempts that are not settled.';
comment on column unsettled_attempts.channel is 'Channel of the attempts.';
comment on column unsettled_attempts.country is 'Destination country; unknown for e-mail.';
comment on column unsettled_attempts.age_bucket is
'Age at the newest read: 0 to 1 h, 1 to 24 h, 24 to 72 h, 72 h to 30 d (due to be read again) or over 30 d (past retention, cannot be read again; see missed_revisits).';
comment on column unsettled_attempts.attempts is 'Attempts that are not settled.';
comment on column unsettled_attempts.without_price is 'Of these, how many have no price yet.';
comment on column unsettled_attempts.without_receipt is
'Of these, how many have no final receipt yet.';
