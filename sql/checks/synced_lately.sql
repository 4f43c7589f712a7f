-- severity: warn
-- Nothing has been read from Twilio for 26 hours or more: check that the scheduled sync runs.
-- The variable `now` is the time at which the checks run.
with newest as (
    select
        max(w.read_at) as last_read_at,
        (epoch_us(getvariable('now')) - epoch_us(max(w.read_at))) // 3600000000 as hours_ago
    from twilio_verify.windows_read as w
    inner join twilio_verify._dlt_loads as l on w._dlt_load_id = l.load_id and l.status = 0
)

select
    last_read_at,
    hours_ago
from newest
where hours_ago >= 26 or last_read_at is null;
