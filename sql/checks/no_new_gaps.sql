-- severity: warn
-- Attempts passed Twilio's 30-day retention unread in the last week. The view gaps lists all gaps.
-- Reads only the windows of the last weeks one by one: older ones can no longer change.
with windows as (
    select
        w.filters_hash,
        w.created_before,
        greatest(w.created_after, w.read_at - s.retention * interval '1' second) as served_after,
        w.read_at - s.retention * interval '1' second as forgotten_before
    from twilio_verify.windows_read as w
    inner join twilio_verify._dlt_loads as l on w._dlt_load_id = l.load_id and l.status = 0
    cross join settings as s
),

newest as (
    select
        filters_hash,
        max(forgotten_before) filter (where forgotten_before < created_before) as forgotten_before,
        max(max(forgotten_before)) over () as newest_forgotten
    from windows
    group by filters_hash
),

spans as (
    select
        w.filters_hash,
        w.served_after as span_after,
        w.created_before as span_before
    from windows as w
    inner join newest as n on w.filters_hash = n.filters_hash
    where
        w.created_before > n.newest_forgotten - interval '8' day
        and w.forgotten_before < w.created_before
    union all
    select
        w.filters_hash,
        max(w.created_before) as span_after,
        max(w.created_before) as span_before
    from windows as w
    inner join newest as n on w.filters_hash = n.filters_hash
    where
        w.created_before <= n.newest_forgotten - interval '8' day
        and w.forgotten_before < w.created_before
    group by w.filters_hash
    union all
    select
        filters_hash,
        forgotten_before as span_after,
        forgotten_before as span_before
    from newest
),

ordered as (
    select
        filters_hash,
        span_after,
        max(span_before) over (
            partition by filters_hash
            order by span_after, span_before
            rows between unbounded preceding and 1 preceding
        ) as reached
    from spans
)

select
    o.reached as lost_after,
    least(o.span_after, n.forgotten_before) as lost_before
from ordered as o
inner join newest as n on o.filters_hash = n.filters_hash
where
    o.reached < least(o.span_after, n.forgotten_before)
    and least(o.span_after, n.forgotten_before) > n.newest_forgotten - interval '7' day;
