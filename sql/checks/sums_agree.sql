-- severity: fail
-- The sums of a view are not those of the attempts: something is counted twice, or not.
with expected as (
    select
        count(*) as attempts,
        count(*) filter (
            where is_converted and read_age >= (select s.code_validity from settings as s)
        ) as converted_attempts,
        count(distinct verification_sid) filter (where is_converted) as conversions,
        count(distinct verification_sid) as verifications,
        coalesce(sum(price), 0) as channel_spend
    from stg_attempts
),

found as (
    select
        'verification_attempts' as view_name,
        count(*) as attempts,
        count(*) filter (where is_mature and is_converted) as converted_attempts,
        count(*) filter (where is_converting_attempt) as conversions,
        count(*) filter (where attempt_number = 1) as verifications,
        coalesce(sum(price), 0) as channel_spend
    from verification_attempts
    union all
    select
        'daily_conversion' as view_name,
        sum(attempts) as attempts,
        sum(converted_attempts) as converted_attempts,
        sum(credited_conversions) as conversions,
        null as verifications,
        null as channel_spend
    from daily_conversion
    union all
    select
        'conversion_cost' as view_name,
        sum(attempts) as attempts,
        null as converted_attempts,
        sum(credited_conversions) as conversions,
        null as verifications,
        sum(channel_spend) as channel_spend
    from conversion_cost
    union all
    select
        'verifications' as view_name,
        sum(attempts) as attempts,
        null as converted_attempts,
        count(*) filter (where is_converted) as conversions,
        count(*) as verifications,
        null as channel_spend
    from verifications
)

select
    f.view_name,
    f.attempts,
    e.attempts as attempts_expected,
    f.converted_attempts,
    e.converted_attempts as converted_attempts_expected,
    f.conversions,
    e.conversions as conversions_expected,
    f.verifications,
    e.verifications as verifications_expected,
    f.channel_spend,
    e.channel_spend as channel_spend_expected
from found as f
cross join expected as e
where
    e.attempts != coalesce(f.attempts, 0)
    or f.converted_attempts != e.converted_attempts
    or f.conversions != e.conversions
    or f.verifications != e.verifications
    or f.channel_spend != e.channel_spend;
