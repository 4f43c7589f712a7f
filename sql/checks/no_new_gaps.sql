-- severity: warn
-- Attempts passed Twilio's 30-day retention unread in the last week. The view gaps lists all gaps.
with newest as (
    select max(w.read_at) as read_at
    from twilio_verify.windows_read as w
    inner join twilio_verify._dlt_loads as l on w._dlt_load_id = l.load_id and l.status = 0
)

select
    g.lost_after,
    g.lost_before
from gaps as g
cross join newest as n
cross join settings as s
where
    epoch_us(n.read_at) - epoch_us(g.lost_before)
    < epoch_us(s.retention) + 7 * 24 * 3600000000;
