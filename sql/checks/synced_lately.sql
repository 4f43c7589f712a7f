-- severity: warn
-- No sync has read anything for 26 hours. (The variable `now` is when the checks are run.)
with newest as (
    select
        max(read_at) as last_read_at,
        (epoch_us(getvariable('now')) - epoch_us(max(read_at))) // 3600000000 as hours_ago
    from twilio_verify.windows_read
)

select
    last_read_at,
    hours_ago
from newest
where hours_ago >= 26 or last_read_at is null;
