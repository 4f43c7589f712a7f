create or replace view daily_conversion as
with cells as (
    select
        created_date,
        service_sid,
        channel,
        country,
        cast(sum(attempts) as bigint) as attempts,
        cast(sum(mature_attempts) as bigint) as mature_attempts,
        cast(sum(converted_attempts) as bigint) as converted_attempts,
        cast(sum(verifications) as bigint) as verifications,
        cast(sum(converted_verifications) as bigint) as converted_verifications,
        cast(sum(credited_conversions) as bigint) as credited_conversions,
        cast(
            coalesce(sum(attempts) filter (where delivery_outcome = 'delivered'), 0) as bigint
        ) as delivered_attempts,
        cast(
            coalesce(sum(attempts) filter (where delivery_outcome = 'failed'), 0) as bigint
        ) as failed_attempts,
        cast(
            coalesce(sum(attempts) filter (where delivery_outcome = 'unknown'), 0) as bigint
        ) as unknown_attempts
    from daily_attempts
    group by created_date, service_sid, channel, country
)

select
    created_date,
    service_sid,
    channel,
    country,
    attempts,
    mature_attempts,
    converted_attempts,
    converted_attempts / nullif(mature_attempts, 0) as attempt_conversion_rate,
    verifications,
    converted_verifications,
    converted_verifications / nullif(verifications, 0) as verification_success_rate,
    credited_conversions,
    delivered_attempts,
    failed_attempts,
    unknown_attempts,
    delivered_attempts / nullif(delivered_attempts + failed_attempts, 0) as delivery_rate
from cells;

comment on view daily_conversion is
'One row per day, service, channel and country. Conversion rates count mature attempts only.';
comment on column daily_conversion.created_date is 'Day of creation in settings.timezone.';
comment on column daily_conversion.service_sid is 'SID of the Verify service (VA…).';
comment on column daily_conversion.channel is 'Channel of the attempts.';
comment on column daily_conversion.country is 'Destination country; unknown for e-mail.';
comment on column daily_conversion.attempts is 'All attempts, mature or not.';
comment on column daily_conversion.mature_attempts is
'Attempts that were read at age settings.code_validity or later.';
comment on column daily_conversion.converted_attempts is 'Mature attempts marked converted.';
comment on column daily_conversion.attempt_conversion_rate is
'converted_attempts / mature_attempts; null if there are none. It depends on whether Twilio marks one or all attempts of a verification.';
comment on column daily_conversion.verifications is
'Mature verifications whose first attempt is in this row.';
comment on column daily_conversion.converted_verifications is 'Of these, how many converted.';
comment on column daily_conversion.verification_success_rate is
'converted_verifications / verifications; null without verifications.';
comment on column daily_conversion.credited_conversions is
'Verifications converted by an attempt in this row. Each verification counts in one row only. Not a part of verifications, which count in the row of their first attempt.';
comment on column daily_conversion.delivered_attempts is
'Attempts with delivery_outcome delivered.';
comment on column daily_conversion.failed_attempts is 'Attempts with delivery_outcome failed.';
comment on column daily_conversion.unknown_attempts is
'Settled attempts that never got a final receipt.';
comment on column daily_conversion.delivery_rate is
'delivered_attempts / (delivered_attempts + failed_attempts), mature or not; null if both are 0.';
