-- severity: fail
-- A view's sums differ from those of the attempts: some are counted twice, or not at all.
with each_verification as (
    select
        verification_sid,
        bool_or(is_converted) as is_converted,
        min(read_age) as read_age
    from stg_attempts
    group by verification_sid
),

verifications_expected as (
    select
        count(*) as verifications,
        count(*) filter (where v.is_converted) as conversions,
        count(*) filter (where v.read_age >= s.code_validity) as mature_verifications,
        count(*) filter (
            where v.read_age >= s.code_validity and v.is_converted
        ) as converted_verifications
    from each_verification as v
    cross join settings as s
),

-- Count the raw table too: stg_attempts itself may leave out attempts.
raw_expected as (
    select count(*) as attempts from twilio_verify.attempts
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
        sum(a.price) as channel_spend
    from stg_attempts as a
    cross join settings as s
),

waste_expected as (
    select sum(a.price) as wasted_spend
    from stg_attempts as a
    inner join each_verification as v on a.verification_sid = v.verification_sid
    cross join settings as s
    where v.read_age >= s.code_validity and not v.is_converted
),

of_verifications as (
    select
        sum(attempts) as attempts,
        count(*) as verifications,
        count(*) filter (where is_converted) as conversions,
        count(*) filter (where is_mature) as mature_verifications,
        count(*) filter (where is_mature and is_converted) as converted_verifications
    from verifications
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
        sum(credited_conversions) as conversions
    from daily_conversion
),

of_costs as (
    select
        sum(attempts) as attempts,
        sum(priced) as priced,
        sum(price_pending) as price_pending,
        sum(unpriced) as unpriced,
        sum(channel_spend) as channel_spend,
        sum(wasted_spend) as wasted_spend,
        sum(credited_conversions) as conversions
    from conversion_cost
),

expected as (
    select
        counted,
        total
    from verifications_expected unpivot include nulls (total for counted in (columns(*)))
    union all
    select
        counted,
        total
    from attempts_expected unpivot include nulls (total for counted in (columns(*)))
    union all
    select
        counted,
        total
    from raw_expected unpivot include nulls (total for counted in (columns(*)))
    union all
    select
        counted,
        total
    from waste_expected unpivot include nulls (total for counted in (columns(*)))
),

found as (
    select
        'verifications' as view_name,
        counted,
        total
    from of_verifications unpivot include nulls (total for counted in (columns(*)))
    union all
    select
        'daily_conversion' as view_name,
        counted,
        total
    from of_days unpivot include nulls (total for counted in (columns(*)))
    union all
    select
        'conversion_cost' as view_name,
        counted,
        total
    from of_costs unpivot include nulls (total for counted in (columns(*)))
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
