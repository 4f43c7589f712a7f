create or replace table daily_attempts as
with attempts as (
    select
        cast(a.created_at at time zone s.timezone as date) as created_date,
        a.service_sid,
        a.channel,
        a.country,
        a.mcc,
        a.mnc,
        a.carrier,
        a.delivery_outcome,
        a.error_code,
        case when a.price is not null then a.currency end as currency,
        a.price,
        a.is_mature,
        a.is_settled,
        a.is_converted,
        a.is_converting_attempt,
        a.is_verification_converted,
        a.is_verification_mature,
        a.attempt_number
    from verification_attempts as a
    cross join settings as s
)

select
    created_date,
    service_sid,
    channel,
    country,
    mcc,
    mnc,
    carrier,
    delivery_outcome,
    error_code,
    currency,
    count(*) as attempts,
    count(*) filter (where is_mature) as mature_attempts,
    count(*) filter (where is_mature and is_converted) as converted_attempts,
    count(*) filter (where attempt_number = 1 and is_verification_mature) as verifications,
    count(*) filter (
        where attempt_number = 1 and is_verification_mature and is_verification_converted
    ) as converted_verifications,
    count(*) filter (where is_converting_attempt) as credited_conversions,
    count(*) filter (where price is null and not is_settled) as price_pending,
    sum(price) as channel_spend,
    sum(price) filter (
        where is_verification_mature and not is_verification_converted
    ) as wasted_spend
from attempts
group by
    created_date,
    service_sid,
    channel,
    country,
    mcc,
    mnc,
    carrier,
    delivery_outcome,
    error_code,
    currency;

comment on table daily_attempts is
'One row per day, service, channel, network, outcome, error and currency. A table, refreshed by each load.';
comment on column daily_attempts.created_date is 'Day of creation in settings.timezone.';
comment on column daily_attempts.service_sid is 'SID of the Verify service (VA…).';
comment on column daily_attempts.channel is 'Channel of the attempts.';
comment on column daily_attempts.country is 'Destination country; unknown for e-mail.';
comment on column daily_attempts.mcc is 'Mobile country code, text with its leading zeros.';
comment on column daily_attempts.mnc is 'Mobile network code, text with its leading zeros.';
comment on column daily_attempts.carrier is 'Name of the destination network.';
comment on column daily_attempts.delivery_outcome is
'delivered, failed, pending or unknown, as in verification_attempts.';
comment on column daily_attempts.error_code is 'Twilio error code; null when there is none.';
comment on column daily_attempts.currency is
'Currency of the prices, unknown if Twilio gives none; null for attempts without a price.';
comment on column daily_attempts.attempts is 'All attempts, mature or not.';
comment on column daily_attempts.mature_attempts is
'Attempts that were read at age settings.code_validity or later.';
comment on column daily_attempts.converted_attempts is 'Mature attempts marked converted.';
comment on column daily_attempts.verifications is
'Mature verifications whose first attempt is in this row.';
comment on column daily_attempts.converted_verifications is 'Of these, how many converted.';
comment on column daily_attempts.credited_conversions is
'Verifications converted by an attempt in this row. Each verification counts in one row only.';
comment on column daily_attempts.price_pending is
'Attempts that are not settled and whose price is not known yet.';
comment on column daily_attempts.channel_spend is
'Sum of the prices; null for attempts without a price.';
comment on column daily_attempts.wasted_spend is
'Part of channel_spend: cost of mature verifications that never converted.';
