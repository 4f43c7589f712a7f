create or replace view stg_unserved as
with ages as (
    select 0 as age
    union all
    select age from revisit_ages
),

-- The part of each window that was old enough when read, and still within retention.
served as (
    select
        w.filters_hash,
        a.age,
        w.read_at - s.retention * interval '1' second as forgotten_before,
        greatest(w.created_after, w.read_at - s.retention * interval '1' second) as served_after,
        least(w.created_before, w.read_at - a.age * interval '1' second) as served_before
    from twilio_verify.windows_read as w
    inner join twilio_verify._dlt_loads as l on w._dlt_load_id = l.load_id and l.status = 0
    cross join settings as s
    cross join ages as a
    where w.read_at - s.retention * interval '1' second < w.created_before
),

bounds as (
    select
        filters_hash,
        age,
        min(served_after) as first_after,
        max(forgotten_before) as forgotten_before
    from served
    group by filters_hash, age
),

spans as (
    select
        filters_hash,
        age,
        served_after as span_after,
        served_before as span_before
    from served
    where served_after < served_before
    union all
    select
        filters_hash,
        age,
        first_after as span_after,
        first_after as span_before
    from bounds
    union all
    select
        filters_hash,
        age,
        forgotten_before as span_after,
        forgotten_before as span_before
    from bounds
),

ordered as (
    select
        filters_hash,
        age,
        span_after,
        max(span_before) over (
            partition by filters_hash, age
            order by span_after, span_before
            rows between unbounded preceding and 1 preceding
        ) as unserved_after
    from spans
)

select
    o.filters_hash,
    o.age,
    o.unserved_after,
    least(o.span_after, b.forgotten_before) as unserved_before
from ordered as o
inner join bounds as b on o.filters_hash = b.filters_hash and o.age = b.age
where o.unserved_after < least(o.span_after, b.forgotten_before);

comment on view stg_unserved is
'One row per stretch of created time that left retention before a read at this age or later.';
comment on column stg_unserved.filters_hash is
'Set of filters, as in twilio_verify.windows_read. Each set has its own progress.';
comment on column stg_unserved.age is '0 (any read), or an age of revisit_ages, in seconds.';
comment on column stg_unserved.unserved_after is 'Start of the stretch, exclusive (UTC).';
comment on column stg_unserved.unserved_before is 'End of the stretch, inclusive (UTC).';
