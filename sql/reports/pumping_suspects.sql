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
        cast(timezone(s.timezone, v.started_at) as date) as created_date
    from verifications as v
    cross join settings as s
    where
        v.is_mature
        and not contains(v.destination, '@')
        and v.destination_prefix != 'unknown'
),

-- A verification none of whose codes arrived says nothing of who asked for it: an outage is not an
-- attack. It does belong to an attack, and may have been paid for.
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

-- An attack is no measure of another: several prefixes, day after day, would hide each other. What
-- would be suspect even if only half of all converted is left out of every baseline.
measured as (
    select
        c.created_date,
        c.country,
        c.destination_prefix,
        c.verifications,
        c.verifications >= s.pumping_verifications
        and c.converted < c.verifications * s.pumping_rate / 2 as is_low,
        case when is_low then 0 else c.verifications end as usual_verifications,
        case when is_low then 0 else c.converted end as usual_converted
    from cells as c
    cross join settings as s
),

-- Few cells can be suspects at all; the rest is reckoned for those.
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

of_prefix as (
    select
        c.cell,
        sum(m.usual_verifications) as verifications,
        sum(m.usual_converted) as converted,
        sum(m.verifications) - max(c.verifications) as all_before,
        coalesce(
            sum(m.usual_verifications) filter (where m.created_date < c.created_date), 0
        ) as verifications_before,
        coalesce(
            sum(m.usual_converted) filter (where m.created_date < c.created_date), 0
        ) as converted_before
    from candidates as c
    inner join measured as m
        on
            c.country = m.country
            and c.destination_prefix = m.destination_prefix
            and c.created_date - m.created_date between 0 and 28
    group by c.cell
),

country_days as (
    select
        created_date,
        country,
        sum(usual_verifications) as verifications,
        sum(usual_converted) as converted
    from measured
    group by created_date, country
),

-- The account with the day itself: its first day would have nothing else to be held against.
of_account as (
    select
        c.cell,
        sum(d.verifications) as verifications,
        sum(d.converted) as converted,
        max(c.created_date) - min(d.created_date) as days_before,
        coalesce(
            sum(d.verifications) filter (
                where d.country = c.country and d.created_date < c.created_date
            ),
            0
        ) as country_verifications,
        coalesce(
            sum(d.converted) filter (
                where d.country = c.country and d.created_date < c.created_date
            ),
            0
        ) as country_converted
    from candidates as c
    inner join country_days as d on c.created_date - d.created_date between 0 and 28
    group by c.cell
),

others as (
    select
        p.cell,
        p.all_before,
        a.days_before,
        a.verifications - p.verifications as of_account,
        a.country_verifications - p.verifications_before as of_country,
        (a.converted - p.converted) / nullif(a.verifications - p.verifications, 0) as account_rate,
        (a.country_converted - p.converted_before)
        / nullif(a.country_verifications - p.verifications_before, 0) as country_rate
    from of_prefix as p
    inner join of_account as a on p.cell = a.cell
),

baselines as (
    select
        c.created_date,
        c.country,
        c.destination_prefix,
        c.verifications,
        c.converted,
        c.cell,
        o.all_before,
        o.days_before,
        c.converted / c.verifications as success_rate,
        case
            when o.of_country < 100 then o.account_rate
            else greatest(o.country_rate, o.account_rate / 2)
        end as baseline,
        case
            when o.of_country < 100 or o.country_rate < o.account_rate / 2 then o.of_account
            else o.of_country
        end as baseline_verifications
    from candidates as c
    inner join others as o on c.cell = o.cell
),

-- Of two binomial rates, pooled: a baseline of few verifications is itself uncertain.
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
    ) as rates
),

of_cell as (
    select
        b.cell,
        v.attempts,
        v.is_converted,
        v.is_undelivered,
        v.channel_spend,
        v.currency,
        try_cast(regexp_replace(v.destination, '[^0-9]', '', 'g') as bigint) as number
    from baselines as b
    inner join sends as v
        on
            b.created_date = v.created_date
            and b.country = v.country
            and b.destination_prefix = v.destination_prefix
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

-- Numbers as a machine counts them up, perhaps leaving one out now and then.
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
        count(*) filter (where step > 2) over (
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
    ['few convert']
    || case
        when t.longest_number_run >= 5 and t.longest_number_run * 2 >= t.distinct_destinations
            then ['numbers in a row']
        else []
    end
    || case
        when b.verifications * b.days_before >= 10 * b.all_before and b.days_before > 0
            then ['sudden']
        else []
    end
    || case when t.attempts = t.verifications then ['nobody asks again'] else [] end
        as reasons
from baselines as b
cross join settings as s
inner join scores as z on b.cell = z.cell
inner join sums as t on b.cell = t.cell
where
    b.success_rate < b.baseline * s.pumping_rate
    and z.z_score >= s.pumping_z_score
    and t.reached >= s.pumping_destinations;

comment on view pumping_suspects is
'One row per day, country and number prefix that hardly converts: SMS pumping, most likely.';
comment on column pumping_suspects.created_date is
'Day of the first attempts in settings.timezone.';
comment on column pumping_suspects.country is 'Destination country.';
comment on column pumping_suspects.destination_prefix is
'The numbers without their last 4 digits.';
comment on column pumping_suspects.verifications is
'Mature verifications, but for those whose every attempt failed to be delivered: an outage '
'is no attack.';
comment on column pumping_suspects.converted is 'Of these, how many converted.';
comment on column pumping_suspects.success_rate is 'converted / verifications.';
comment on column pumping_suspects.baseline is
'What success_rate usually is: that of the rest of the country in the 28 days before, but at '
'least half the account''s; the account''s where the country has under 100 verifications. '
'Prefixes that hardly convert are left out.';
comment on column pumping_suspects.z_score is
'Standard deviations by which success_rate is below baseline: of two binomial rates, pooled.';
comment on column pumping_suspects.distinct_destinations is
'How many numbers were sent to, delivered or not.';
comment on column pumping_suspects.longest_number_run is
'Most of these numbers in a row, of which each is at most 2 above the one before.';
comment on column pumping_suspects.channel_spend is
'Sum of the known channel charges, delivered or not; null when they are in two currencies.';
comment on column pumping_suspects.wasted_spend is
'Of channel_spend, what verifications cost that did not convert.';
comment on column pumping_suspects.currency is
'Currency of channel_spend and wasted_spend; mixed where there are two, null without a price.';
comment on column pumping_suspects.reasons is
'few convert; where so: numbers in a row (a run of half the numbers, and of 5), sudden (10 '
'times the prefix''s usual day), nobody asks again (not one second attempt).';
