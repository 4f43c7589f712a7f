create or replace view pumping_suspects as
with sends as (
    select
        v.country,
        v.destination,
        v.destination_prefix,
        v.attempts,
        v.is_converted,
        v.is_undelivered,
        v.channel_spend,
        v.currency,
        cast(v.started_at at time zone s.timezone as date) as created_date
    from verifications as v
    cross join settings as s
    where
        v.is_mature
        and v.destination not like '%@%'
        and v.destination_prefix != 'unknown'
),

-- Rates leave out verifications of which all attempts failed to be delivered: an outage is not an
-- attack. The spend below includes them: they can belong to an attack, and can cost money.
cells as (
    select
        created_date,
        country,
        destination_prefix,
        count(*) as verifications,
        count(*) filter (where is_converted) as converted
    from sends
    where not is_undelivered
    group by created_date, country, destination_prefix
),

-- Attacks must not lower the baseline: attacks on several prefixes or days would hide each other.
-- So a baseline usually leaves out cells that would be suspect even at a baseline of 50 % (is_low).
judged as (
    select
        c.created_date,
        c.country,
        c.destination_prefix,
        c.verifications,
        c.converted,
        c.verifications >= s.pumping_verifications
        and c.converted < c.verifications * s.pumping_rate / 2 as is_low
    from cells as c
    cross join settings as s
),

measured as (
    select
        created_date,
        country,
        destination_prefix,
        verifications,
        converted,
        is_low,
        case when is_low then 0 else verifications end as usual_verifications,
        case when is_low then 0 else converted end as usual_converted
    from judged
),

country_days as (
    select
        created_date,
        country,
        sum(verifications) as verifications,
        sum(converted) as converted,
        sum(usual_verifications) as usual_verifications,
        sum(usual_converted) as usual_converted,
        bool_or(is_low) as has_low
    from measured
    group by created_date, country
),

-- Only these few cells can be suspects. All that follows is computed for them alone.
candidates as (
    select
        c.created_date,
        c.country,
        c.destination_prefix,
        c.verifications,
        c.converted,
        row_number() over (order by c.created_date, c.country, c.destination_prefix) as cell
    from cells as c
    cross join settings as s
    where
        c.verifications >= s.pumping_verifications
        and c.converted < c.verifications * s.pumping_rate
),

-- A baseline ends `since` days before the candidate. That of the account includes the day itself:
-- on the first day there is nothing else to compare with.
scopes as (
    select
        scope,
        since
    from (values ('account', 0), ('country', 1)) as names (scope, since)
),

-- All cells of a scope, minus those of the prefix itself (the negative numbers).
others as (
    select
        c.cell,
        s.scope,
        date_diff('day', d.created_date, c.created_date) as days_ago,
        d.verifications,
        d.converted,
        d.usual_verifications,
        d.usual_converted,
        d.has_low
    from candidates as c
    cross join scopes as s
    inner join country_days as d
        on
            date_diff('day', d.created_date, c.created_date) between s.since and 28
            and (s.scope = 'account' or c.country = d.country)
    union all
    select
        c.cell,
        s.scope,
        date_diff('day', m.created_date, c.created_date) as days_ago,
        -m.verifications as verifications,
        -m.converted as converted,
        -m.usual_verifications as usual_verifications,
        -m.usual_converted as usual_converted,
        false as has_low
    from candidates as c
    cross join scopes as s
    inner join measured as m
        on
            c.country = m.country
            and c.destination_prefix = m.destination_prefix
            and date_diff('day', m.created_date, c.created_date) between s.since and 28
),

-- Low conversion is normal, not an attack, if most verifications are in low cells on most days, and
-- at least 1 in 20 converts. The baseline then includes the low cells.
scope_sums as (
    select
        cell,
        scope,
        max(days_ago) as days_before,
        count(distinct days_ago) filter (where has_low) * 2 > count(distinct days_ago)
        and sum(usual_verifications) * 2 < sum(verifications)
        and sum(converted) * 20 >= sum(verifications) as is_low,
        sum(verifications) as verifications,
        sum(converted) as converted,
        sum(usual_verifications) as usual_verifications,
        sum(usual_converted) as usual_converted
    from others
    group by cell, scope
),

rates as (
    select
        cell,
        scope,
        days_before,
        case when is_low then verifications else usual_verifications end as of_verifications,
        case when is_low then converted else usual_converted end
        / nullif(case when is_low then verifications else usual_verifications end, 0) as rate
    from scope_sums
),

of_prefix as (
    select
        c.cell,
        count(*) filter (where m.is_low) as low_days,
        coalesce(sum(m.usual_verifications), 0) as usual_verifications
    from candidates as c
    left join measured as m
        on
            c.country = m.country
            and c.destination_prefix = m.destination_prefix
            and date_diff('day', m.created_date, c.created_date) between 1 and 28
    group by c.cell
),

baselines as (
    select
        c.created_date,
        c.country,
        c.destination_prefix,
        c.verifications,
        c.converted,
        c.cell,
        c.converted / c.verifications as success_rate,
        a.days_before - p.low_days as usual_days,
        p.usual_verifications,
        case
            when coalesce(n.of_verifications, 0) < 100 then a.rate
            else greatest(n.rate, a.rate / 2)
        end as baseline,
        case
            when coalesce(n.of_verifications, 0) < 100 or n.rate < a.rate / 2
                then a.of_verifications
            else n.of_verifications
        end as baseline_verifications
    from candidates as c
    inner join of_prefix as p on c.cell = p.cell
    inner join rates as a on c.cell = a.cell and a.scope = 'account'
    left join rates as n on c.cell = n.cell and n.scope = 'country'
),

-- A z-test of two binomial rates, pooled: a baseline of few verifications is itself uncertain.
scores as (
    select
        cell,
        (baseline - success_rate) / sqrt(
            pooled * (1 - pooled) * (1 / verifications + 1 / baseline_verifications)
        ) as z_score
    from (
        select
            cell,
            baseline,
            success_rate,
            verifications,
            baseline_verifications,
            (converted + baseline * baseline_verifications)
            / (verifications + baseline_verifications) as pooled
        from baselines
    ) as of_both
),

of_cell as (
    select
        c.cell,
        v.attempts,
        v.is_converted,
        v.is_undelivered,
        v.channel_spend,
        v.currency,
        try_cast(regexp_replace(v.destination, '[^0-9]', '', 'g') as bigint) as number
    from candidates as c
    inner join sends as v
        on
            c.created_date = v.created_date
            and c.country = v.country
            and c.destination_prefix = v.destination_prefix
),

destinations as (
    select
        cell,
        number,
        number - lag(number) over (partition by cell order by number) as step,
        bool_or(not is_undelivered) as is_reached,
        count(*) as verifications,
        sum(attempts) as attempts,
        sum(channel_spend) as channel_spend,
        sum(channel_spend) filter (where not is_converted) as wasted_spend,
        min(currency) as first_currency,
        max(currency) as last_currency
    from of_cell
    group by cell, number
),

-- Runs of numbers: each is at most 2 above the one before, as if a machine counted them up.
stretches as (
    select
        cell,
        is_reached,
        verifications,
        attempts,
        channel_spend,
        wasted_spend,
        first_currency,
        last_currency,
        sum(case when step > 2 then 1 else 0 end) over (
            partition by cell
            order by number
        ) as stretch
    from destinations
),

stretch_sums as (
    select
        cell,
        count(*) as destinations,
        count(*) filter (where is_reached) as reached,
        sum(verifications) as verifications,
        sum(attempts) as attempts,
        sum(channel_spend) as channel_spend,
        sum(wasted_spend) as wasted_spend,
        min(first_currency) as first_currency,
        max(last_currency) as last_currency
    from stretches
    group by cell, stretch
),

sums as (
    select
        cell,
        sum(destinations) as distinct_destinations,
        sum(reached) as reached,
        max(destinations) as longest_number_run,
        sum(verifications) as verifications,
        sum(attempts) as attempts,
        sum(channel_spend) as channel_spend,
        coalesce(sum(wasted_spend), 0) as wasted_spend,
        case
            when min(first_currency) = max(last_currency) then min(first_currency)
            when count(first_currency) > 0 then 'mixed'
        end as currency
    from stretch_sums
    group by cell
)

select
    b.created_date,
    b.country,
    b.destination_prefix,
    b.verifications,
    b.converted,
    b.success_rate,
    b.baseline,
    z.z_score,
    cast(t.distinct_destinations as bigint) as distinct_destinations,
    t.longest_number_run,
    case when t.currency != 'mixed' then t.channel_spend end as channel_spend,
    case when t.currency != 'mixed' then t.wasted_spend end as wasted_spend,
    t.currency,
    string_split(
        concat_ws(
            ',',
            'few convert',
            case
                when
                    t.longest_number_run >= 5
                    and t.longest_number_run * 2 >= t.distinct_destinations
                    then 'numbers in a row'
            end,
            case
                when
                    b.verifications * b.usual_days >= 10 * b.usual_verifications
                    and b.usual_days > 0
                    then 'sudden'
            end,
            case when t.attempts = t.verifications then 'nobody asks again' end
        ),
        ','
    ) as reasons
from baselines as b
cross join settings as s
inner join scores as z on b.cell = z.cell
inner join sums as t on b.cell = t.cell
where
    b.success_rate < b.baseline * s.pumping_rate
    and z.z_score >= s.pumping_z_score
    and t.reached >= s.pumping_destinations;

comment on view pumping_suspects is
'One row per day, country and number prefix that hardly converts: probably SMS pumping.';
comment on column pumping_suspects.created_date is
'Day of the first attempts in settings.timezone.';
comment on column pumping_suspects.country is 'Destination country.';
comment on column pumping_suspects.destination_prefix is
'Phone numbers without their last 4 digits.';
comment on column pumping_suspects.verifications is
'Mature verifications, without those of which all attempts failed to be delivered: an outage is not an attack.';
comment on column pumping_suspects.converted is 'Of these, how many converted.';
comment on column pumping_suspects.success_rate is 'converted / verifications.';
comment on column pumping_suspects.baseline is
'The usual success_rate: that of the rest of the country in the 28 days before, but at least half of the account''s. If the country has under 100 verifications, that of the account. Prefixes that hardly convert do not count, unless on most days they are the majority.';
comment on column pumping_suspects.z_score is
'Standard deviations by which success_rate is below baseline (two binomial rates, pooled).';
comment on column pumping_suspects.distinct_destinations is
'How many phone numbers were sent to, delivered or not.';
comment on column pumping_suspects.longest_number_run is
'Length of the longest run of numbers in which each is at most 2 above the one before.';
comment on column pumping_suspects.channel_spend is
'Sum of the known channel charges, delivered or not; null if they are in two currencies.';
comment on column pumping_suspects.wasted_spend is
'Part of channel_spend: cost of verifications that did not convert.';
comment on column pumping_suspects.currency is
'Currency of channel_spend and wasted_spend; mixed if there are two, null without a price.';
comment on column pumping_suspects.reasons is
'Always: few convert. If true: numbers in a row (longest_number_run is 5 or more, and half of the numbers or more), sudden (10 times the prefix''s usual day or more), nobody asks again (no verification has a second attempt).';
