create or replace view channel_conversion as
with months as (
    select
        channel,
        cast(date_trunc('month', created_date) as date) as created_month,
        sum(verifications) as verifications,
        sum(converted_verifications) as converted,
        sum(attempts) as attempts,
        sum(mature_attempts) as mature_attempts,
        sum(converted_attempts) as converted_attempts
    from daily_conversion
    group by channel, created_month
),

rates as (
    select
        created_month,
        channel,
        attempts,
        cast(verifications as bigint) as verifications,
        cast(converted as bigint) as converted,
        converted / nullif(verifications, 0) as success_rate,
        converted_attempts / nullif(mature_attempts, 0) as attempt_conversion_rate,
        1.959964 ^ 2 / nullif(verifications, 0) as spread
    from months
),

-- Wilson's interval (J. Am. Stat. Assoc. 22, 1927). It is right even for few verifications and for
-- rates near 0 or 1.
intervals as (
    select
        created_month,
        channel,
        verifications,
        converted,
        success_rate,
        (success_rate + spread / 2) / (1 + spread) as middle,
        sqrt(spread * success_rate * (1 - success_rate) + spread ^ 2 / 4) / (1 + spread) as reach,
        attempts,
        attempt_conversion_rate
    from rates
)

select
    created_month,
    channel,
    verifications,
    converted,
    success_rate,
    cast(cast(middle - reach as decimal(18, 9)) as double) as success_rate_low,
    cast(cast(middle + reach as decimal(18, 9)) as double) as success_rate_high,
    cast(attempts as bigint) as attempts,
    attempt_conversion_rate
from intervals;

comment on view channel_conversion is
'One row per month and channel, with a 95 % confidence interval of the success rate.';
comment on column channel_conversion.created_month is
'First day of the month of creation in settings.timezone.';
comment on column channel_conversion.channel is
'Channel of the attempts. A verification counts under the channel of its first attempt.';
comment on column channel_conversion.verifications is
'Mature verifications whose first attempt is in this row.';
comment on column channel_conversion.converted is 'Of these, how many converted.';
comment on column channel_conversion.success_rate is
'converted / verifications; null without verifications.';
comment on column channel_conversion.success_rate_low is
'Lower end of the 95 % Wilson interval of success_rate.';
comment on column channel_conversion.success_rate_high is
'Upper end of the 95 % Wilson interval of success_rate.';
comment on column channel_conversion.attempts is 'All attempts of this row, mature or not.';
comment on column channel_conversion.attempt_conversion_rate is
'Converted / all mature attempts. It depends on whether Twilio marks one or all attempts of a verification. It has no interval: resends are not independent.';
