create or replace view coverage as
with windows as (
    select
        w.filters_hash,
        w.created_after,
        w.created_before,
        w.read_at,
        least(
            w.created_before, w.read_at - s.settled_after * interval '1' second
        ) as settled_before,
        -- Created times are whole seconds.
        cast((w.created_after + interval '1' second) at time zone 'UTC' as date) as first_date,
        cast(w.created_before at time zone 'UTC' as date) as last_date
    from twilio_verify.windows_read as w
    inner join twilio_verify._dlt_loads as l on w._dlt_load_id = l.load_id and l.status = 0
    cross join settings as s
),

attempts as (
    select
        cast(created_at at time zone 'UTC' as date) as created_date,
        count(*) as attempts,
        min(read_age) as read_age
    from stg_attempts
    group by created_date
),

span as (
    select
        min(first_date) as first_date,
        max(last_date) as last_date
    from (
        select
            min(first_date) as first_date,
            max(last_date) as last_date
        from windows
        union all
        select
            min(created_date) as first_date,
            max(created_date) as last_date
        from attempts
    ) as both_ends
),

digits as (
    select digit
    from (values (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) as names (digit)
),

-- 27 years of days.
calendar as (
    select
        cast(
            s.first_date
            + (a.digit + 10 * b.digit + 100 * c.digit + 1000 * d.digit) * interval '1' day
            as timestamp
        ) as day,
        cast(s.last_date as timestamp) as last_day
    from span as s
    cross join digits as a
    cross join digits as b
    cross join digits as c
    cross join digits as d
),

-- Bounds like those of windows: day_after is exclusive, day_before inclusive. Attempts are created
-- at whole seconds.
days as (
    select
        cast(day as date) as created_date,
        (day - interval '1' second) at time zone 'UTC' as day_after,
        (day + interval '1' day - interval '1' second) at time zone 'UTC' as day_before
    from calendar
    where day <= last_day
),

-- Windows by day. Nearly all windows lie within a day, and joining by ranges is slow.
daily as (
    select
        first_date as created_date,
        filters_hash,
        created_after,
        read_at,
        settled_before
    from windows
    where first_date = last_date
    union all
    select
        d.created_date,
        w.filters_hash,
        w.created_after,
        w.read_at,
        w.settled_before
    from days as d
    inner join windows as w on d.created_date between w.first_date and w.last_date
    where w.first_date < w.last_date
),

reads as (
    select
        created_date,
        min(read_at) as first_read_at,
        max(read_at) as last_read_at
    from daily
    group by created_date
),

-- The part of each window that was read when settled, and how far the windows before it reach.
late_reads as (
    select
        d.created_date,
        w.filters_hash,
        epoch_us(greatest(w.created_after, d.day_after)) as read_after,
        epoch_us(least(w.settled_before, d.day_before)) as read_before,
        max(epoch_us(least(w.settled_before, d.day_before))) over (
            partition by d.created_date, w.filters_hash
            order by greatest(w.created_after, d.day_after), w.settled_before
            rows between unbounded preceding and 1 preceding
        ) as reached
    from days as d
    inner join daily as w
        on
            d.created_date = w.created_date
            and d.day_after < w.settled_before
            and w.created_after < w.settled_before
),

covered_by_filters as (
    select
        created_date,
        filters_hash,
        sum(greatest(read_before - greatest(read_after, coalesce(reached, read_after)), 0))
            as microseconds
    from late_reads
    group by created_date, filters_hash
),

covered as (
    select
        created_date,
        max(microseconds) as microseconds
    from covered_by_filters
    group by created_date
),

-- Each set of filters has its own gaps. A day shows the set with the longest.
gaps_of_filters as (
    select
        d.created_date,
        g.filters_hash,
        sum(
            epoch_us(least(g.lost_before, d.day_before))
            - epoch_us(greatest(g.lost_after, d.day_after))
        ) / 1e6 as seconds
    from days as d
    inner join gaps as g on d.day_before > g.lost_after and d.day_after < g.lost_before
    group by d.created_date, g.filters_hash
),

lost as (
    select
        created_date,
        max(seconds) as gap_seconds
    from gaps_of_filters
    group by created_date
),

-- The newest comparison of each set of filters. A whole day ends at the next midnight, so its date
-- is that of one second before.
compared as (
    select
        cast((created_before - interval '1' second) at time zone 'UTC' as date) as created_date,
        filters_hash,
        reconciled_at,
        api_attempts,
        api_converted
    from twilio_verify.reconciliations
),

newest_of_filters as (
    select
        created_date,
        filters_hash,
        api_attempts,
        api_converted,
        row_number() over (
            partition by created_date, filters_hash
            order by reconciled_at desc, api_attempts desc
        ) as place
    from compared
),

-- The set of filters with most attempts: `attempts` below counts those of all sets.
reconciled as (
    select
        created_date,
        api_attempts,
        api_converted,
        row_number() over (
            partition by created_date
            order by api_attempts desc, filters_hash asc
        ) as place
    from newest_of_filters
    where place = 1
)

select
    d.created_date,
    coalesce(a.attempts, 0) as attempts,
    r.first_read_at,
    r.last_read_at,
    coalesce(v.microseconds = 24 * 3600000000, false)
    and coalesce(a.read_age >= s.settled_after, true) as is_settled,
    coalesce(l.gap_seconds, 0) as gap_seconds,
    c.api_attempts,
    c.api_converted
from days as d
cross join settings as s
left join attempts as a on d.created_date = a.created_date
left join reads as r on d.created_date = r.created_date
left join covered as v on d.created_date = v.created_date
left join lost as l on d.created_date = l.created_date
left join reconciled as c on d.created_date = c.created_date and c.place = 1;

comment on view coverage is 'One row per day of created time, in UTC like Twilio''s own counts.';
comment on column coverage.created_date is 'Day of creation in UTC, not in settings.timezone.';
comment on column coverage.attempts is 'Attempts in the warehouse.';
comment on column coverage.first_read_at is
'When a part of the day was read for the first time (UTC).';
comment on column coverage.last_read_at is
'When a part of the day was read for the last time (UTC).';
comment on column coverage.is_settled is
'Whether the whole day, and each of its attempts, was read at age settings.settled_after or later. Usually false for the first day, because only part of it was read.';
comment on column coverage.gap_seconds is
'Seconds of the day that left retention before they were read; see the view gaps.';
comment on column coverage.api_attempts is
'Twilio''s own count of attempts at the last `reconcile`; null if there was none.';
comment on column coverage.api_converted is
'Twilio''s own count of converted attempts at the last `reconcile`.';
