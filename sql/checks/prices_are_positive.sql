-- severity: warn
-- A price is negative, which none of Twilio's is.
select
    attempt_sid,
    created_at,
    channel,
    country,
    price,
    currency
from stg_attempts
where price < 0;
