create or replace view pumping_suspects as
-- A verification none of whose codes arrived says nothing: an outage is not an attack.
with counted as (
    select
        v.country,
        v.destination_prefix,
        v.attempts,
        v.is_converted,
        v.channel_spend,
        v.currency,
        try_cast(substr(v.destination, 2) as bigint) as number,
        cast(timezone(s.timezone, v.started_at) as date) as created_date
    from verifications as v
    cross join settings as s
    where v.is_mature and not v.is_undelivered and v.destination like '+%'
),

cells as (
    select
        created_date,
        country,
        destination_prefix,
        count(*) as verifications,
        count(*) filter (where is_converted) as converted
    from counted
    group by created_date, country, destination_prefix
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
        sum(p.verifications) as verifications,
        sum(p.converted) as converted,
        sum(p.verifications) - max(c.verifications) as verifications_before,
        sum(p.converted) - max(c.converted) as converted_before
    from candidates as c
    inner join cells as p
        on
            c.country = p.country
            and c.destination_prefix = p.destination_prefix
            and c.created_date - p.created_date between 0 and 28
    group by c.cell
),

country_days as (
    select
        created_date,
        country,
        sum(verifications) as verifications,
        sum(converted) as converted
    from cells
    group by created_date, country
),

-- The account with the day itself: its first day would have nothing else to be held against.
of_account as (
    select
        c.cell,
        sum(d.verifications) as verifications,
        sum(d.converted) as converted,
        max(c.created_date) - min(d.created_date) as days_before,
        sum(d.verifications) filter (
            where d.country = c.country and d.created_date < c.created_date
        ) as country_verifications,
        sum(d.converted) filter (
            where d.country = c.country and d.created_date < c.created_date
        ) as country_converted
    from candidates as c
    inner join country_days as d on c.created_date - d.created_date between 0 and 28
    group by c.cell
),

others as (
    select
        p.cell,
        p.verifications_before,
        a.days_before,
        coalesce(a.country_verifications, 0) - p.verifications_before as verifications,
        coalesce(a.country_converted, 0) - p.converted_before as converted,
        (a.converted - p.converted) / nullif(a.verifications - p.verifications, 0) as account_rate
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
        o.verifications_before,
        o.days_before,
        c.converted / c.verifications as success_rate,
        case
            when o.verifications < 100 then o.account_rate
            else greatest(o.converted / o.verifications, o.account_rate / 2)
        end as baseline
    from candidates as c
    inner join others as o on c.cell = o.cell
),

scores as (
    select
        cell,
        -- With a baseline of 1 a single miss would be infinitely unlikely.
        (baseline - success_rate) / sqrt(
            least(baseline, 0.99) * (1 - least(baseline, 0.99)) / verifications
        ) as z_score
    from baselines
),

destinations as (
    select
        b.cell,
        v.number,
        v.number - lag(v.number) over (partition by b.cell order by v.number) as step,
        sum(v.attempts) as attempts,
        sum(v.channel_spend) as channel_spend,
        sum(v.channel_spend) filter (where not v.is_converted) as wasted_spend,
        min(v.currency) as first_currency,
        max(v.currency) as last_currency
    from baselines as b
    inner join counted as v
        on
            b.created_date = v.created_date
            and b.country = v.country
            and b.destination_prefix = v.destination_prefix
    group by b.cell, v.number
),

-- Numbers as a machine counts them up, perhaps leaving one out now and then.
stretches as (
    select
        cell,
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
        max(destinations) as longest_number_run,
        sum(attempts) as attempts,
        sum(channel_spend) as channel_spend,
        coalesce(sum(wasted_spend), 0) as wasted_spend,
        min(first_currency) as first_currency,
        max(last_currency) as last_currency
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
    case when t.first_currency = t.last_currency then t.channel_spend end as channel_spend,
    case when t.first_currency = t.last_currency then t.wasted_spend end as wasted_spend,
    case when t.first_currency = t.last_currency then t.first_currency end as currency,
    ['few convert']
    || case
        when t.longest_number_run * 2 >= t.distinct_destinations then ['numbers in a row']
        else []
    end
    || case
        when b.verifications * b.days_before >= 10 * b.verifications_before and b.days_before > 0
            then ['sudden']
        else []
    end
    || case when t.attempts = b.verifications then ['nobody asks again'] else [] end
        as reasons
from baselines as b
cross join settings as s
inner join scores as z on b.cell = z.cell
inner join sums as t on b.cell = t.cell
where
    b.success_rate < b.baseline * s.pumping_rate
    and z.z_score >= s.pumping_z_score
    and t.distinct_destinations >= s.pumping_destinations;

comment on view pumping_suspects is
'One row per day, country and number prefix that hardly converts: SMS pumping, most likely.';
comment on column pumping_suspects.created_date is
'Day of the first attempts in settings.timezone.';
comment on column pumping_suspects.country is 'Destination country.';
comment on column pumping_suspects.destination_prefix is
'The numbers without their last 4 digits.';
comment on column pumping_suspects.verifications is
'Mature verifications, but for those none of whose codes arrived.';
comment on column pumping_suspects.converted is 'Of these, how many converted.';
comment on column pumping_suspects.success_rate is 'converted / verifications.';
comment on column pumping_suspects.baseline is
'Rate of the rest of the country in the 28 days before; of the account where that is under 100.';
comment on column pumping_suspects.z_score is
'Standard deviations of a binomial by which success_rate is below baseline.';
comment on column pumping_suspects.distinct_destinations is 'How many numbers were sent to.';
comment on column pumping_suspects.longest_number_run is
'Most numbers in a row, of which each is at most 2 above the one before.';
comment on column pumping_suspects.channel_spend is
'Sum of the verifications'' known channel charges, in one currency; else null.';
comment on column pumping_suspects.wasted_spend is
'Of channel_spend, what verifications cost that did not convert.';
comment on column pumping_suspects.currency is 'Currency of channel_spend and wasted_spend.';
comment on column pumping_suspects.reasons is
'few convert; where so: numbers in a row, sudden (10 times a usual day), nobody asks again.';
