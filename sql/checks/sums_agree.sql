-- severity: fail
-- A view's sums differ from those of the attempts: some are counted twice, or not at all.
-- Looks at the days from `first_day` to `last_day`, which lie between `days_from` and `days_until`.
with each_verification as (
    select
        verification_sid,
        count(*) as attempts,
        bool_or(is_converted) as is_converted,
        min(read_age) as read_age,
        min(created_at) as started_at,
        max(created_at) filter (where is_converted) as converted_at
    from stg_attempts
    where
        -- The attempts of a verification lie within a day: Twilio lets no code live longer.
        created_at >= getvariable('days_from') - interval '1' day
        and created_at < getvariable('days_until') + interval '1' day
    group by verification_sid
),

verifications_expected as (
    select
        sum(v.attempts) as attempts_of_verifications,
        count(*) as verifications,
        count(*) filter (where v.is_converted) as conversions,
        count(*) filter (where v.read_age >= s.code_validity) as mature_verifications,
        count(*) filter (
            where v.read_age >= s.code_validity and v.is_converted
        ) as converted_verifications
    from each_verification as v
    cross join settings as s
    where
        cast(v.started_at at time zone s.timezone as date)
        between getvariable('first_day') and getvariable('last_day')
),

credits_expected as (
    select count(*) as credited_conversions
    from each_verification as v
    cross join settings as s
    where
        cast(v.converted_at at time zone s.timezone as date)
        between getvariable('first_day') and getvariable('last_day')
),

-- Count the raw table too: stg_attempts itself may leave out attempts.
raw_expected as (
    select count(*) as attempts
    from twilio_verify.attempts as a
    cross join settings as s
    where
        a.date_created >= getvariable('days_from')
        and a.date_created < getvariable('days_until')
        and cast(a.date_created at time zone s.timezone as date)
        between getvariable('first_day') and getvariable('last_day')
),

attempts_expected as (
    select
        count(*) filter (where a.read_age >= s.code_validity) as mature_attempts,
        count(*) filter (
            where a.read_age >= s.code_validity and a.is_converted
        ) as converted_attempts,
        count(*) filter (where a.receipt = 'delivered') as delivered_attempts,
        count(*) filter (where a.receipt = 'failed') as failed_attempts,
        count(*) filter (
            where a.receipt is null and a.read_age >= s.settled_after
        ) as unknown_attempts,
        count(a.price) as priced,
        count(*) filter (
            where a.price is null and a.read_age < s.settled_after
        ) as price_pending,
        count(*) filter (where a.price is null and a.read_age >= s.settled_after) as unpriced,
        sum(a.price) as channel_spend,
        sum(a.price) filter (
            where v.read_age >= s.code_validity and not v.is_converted
        ) as wasted_spend
    from stg_attempts as a
    inner join each_verification as v on a.verification_sid = v.verification_sid
    cross join settings as s
    where
        a.created_at >= getvariable('days_from')
        and a.created_at < getvariable('days_until')
        and cast(a.created_at at time zone s.timezone as date)
        between getvariable('first_day') and getvariable('last_day')
),

of_verifications as (
    select
        sum(v.attempts) as attempts_of_verifications,
        count(*) as verifications,
        count(*) filter (where v.is_converted) as conversions,
        count(*) filter (where v.is_mature) as mature_verifications,
        count(*) filter (where v.is_mature and v.is_converted) as converted_verifications
    from verifications as v
    cross join settings as s
    where
        v.started_at >= getvariable('days_from')
        and v.started_at < getvariable('days_until')
        and cast(v.started_at at time zone s.timezone as date)
        between getvariable('first_day') and getvariable('last_day')
),

of_days as (
    select
        sum(attempts) as attempts,
        sum(mature_attempts) as mature_attempts,
        sum(converted_attempts) as converted_attempts,
        sum(delivered_attempts) as delivered_attempts,
        sum(failed_attempts) as failed_attempts,
        sum(unknown_attempts) as unknown_attempts,
        sum(verifications) as mature_verifications,
        sum(converted_verifications) as converted_verifications,
        sum(credited_conversions) as credited_conversions
    from daily_conversion
    where created_date between getvariable('first_day') and getvariable('last_day')
),

of_costs as (
    select
        sum(attempts) as attempts,
        sum(priced) as priced,
        sum(price_pending) as price_pending,
        sum(unpriced) as unpriced,
        sum(channel_spend) as channel_spend,
        sum(wasted_spend) as wasted_spend,
        sum(credited_conversions) as credited_conversions
    from conversion_cost
    where created_date between getvariable('first_day') and getvariable('last_day')
),

expected as (
    select
        'attempts_of_verifications' as counted,
        cast(attempts_of_verifications as decimal(38, 6)) as total
    from verifications_expected
    union all
    select
        'verifications' as counted,
        cast(verifications as decimal(38, 6)) as total
    from verifications_expected
    union all
    select
        'conversions' as counted,
        cast(conversions as decimal(38, 6)) as total
    from verifications_expected
    union all
    select
        'mature_verifications' as counted,
        cast(mature_verifications as decimal(38, 6)) as total
    from verifications_expected
    union all
    select
        'converted_verifications' as counted,
        cast(converted_verifications as decimal(38, 6)) as total
    from verifications_expected
    union all
    select
        'credited_conversions' as counted,
        cast(credited_conversions as decimal(38, 6)) as total
    from credits_expected
    union all
    select
        'attempts' as counted,
        cast(attempts as decimal(38, 6)) as total
    from raw_expected
    union all
    select
        'mature_attempts' as counted,
        cast(mature_attempts as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'converted_attempts' as counted,
        cast(converted_attempts as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'delivered_attempts' as counted,
        cast(delivered_attempts as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'failed_attempts' as counted,
        cast(failed_attempts as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'unknown_attempts' as counted,
        cast(unknown_attempts as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'priced' as counted,
        cast(priced as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'price_pending' as counted,
        cast(price_pending as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'unpriced' as counted,
        cast(unpriced as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'channel_spend' as counted,
        cast(channel_spend as decimal(38, 6)) as total
    from attempts_expected
    union all
    select
        'wasted_spend' as counted,
        cast(wasted_spend as decimal(38, 6)) as total
    from attempts_expected
),

found as (
    select
        'verifications' as view_name,
        'attempts_of_verifications' as counted,
        cast(attempts_of_verifications as decimal(38, 6)) as total
    from of_verifications
    union all
    select
        'verifications' as view_name,
        'verifications' as counted,
        cast(verifications as decimal(38, 6)) as total
    from of_verifications
    union all
    select
        'verifications' as view_name,
        'conversions' as counted,
        cast(conversions as decimal(38, 6)) as total
    from of_verifications
    union all
    select
        'verifications' as view_name,
        'mature_verifications' as counted,
        cast(mature_verifications as decimal(38, 6)) as total
    from of_verifications
    union all
    select
        'verifications' as view_name,
        'converted_verifications' as counted,
        cast(converted_verifications as decimal(38, 6)) as total
    from of_verifications
    union all
    select
        'daily_conversion' as view_name,
        'attempts' as counted,
        cast(attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'mature_attempts' as counted,
        cast(mature_attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'converted_attempts' as counted,
        cast(converted_attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'delivered_attempts' as counted,
        cast(delivered_attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'failed_attempts' as counted,
        cast(failed_attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'unknown_attempts' as counted,
        cast(unknown_attempts as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'mature_verifications' as counted,
        cast(mature_verifications as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'converted_verifications' as counted,
        cast(converted_verifications as decimal(38, 6)) as total
    from of_days
    union all
    select
        'daily_conversion' as view_name,
        'credited_conversions' as counted,
        cast(credited_conversions as decimal(38, 6)) as total
    from of_days
    union all
    select
        'conversion_cost' as view_name,
        'attempts' as counted,
        cast(attempts as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'priced' as counted,
        cast(priced as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'price_pending' as counted,
        cast(price_pending as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'unpriced' as counted,
        cast(unpriced as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'channel_spend' as counted,
        cast(channel_spend as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'wasted_spend' as counted,
        cast(wasted_spend as decimal(38, 6)) as total
    from of_costs
    union all
    select
        'conversion_cost' as view_name,
        'credited_conversions' as counted,
        cast(credited_conversions as decimal(38, 6)) as total
    from of_costs
)

select
    f.view_name,
    f.counted,
    coalesce(f.total, 0) as total,
    coalesce(e.total, 0) as expected
from found as f
inner join expected as e on f.counted = e.counted
where coalesce(f.total, 0) != coalesce(e.total, 0)
order by f.view_name, f.counted;
