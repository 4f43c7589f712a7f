-- severity: warn
-- A price is negative or not a number. The views treat a price that is not a number as unknown.
select
    sid,
    date_created,
    channel,
    price__value,
    price__currency
from twilio_verify.attempts
where
    read_at >= getvariable('changed_since')
    and (
        try_cast(price__value as decimal(18, 6)) < 0
        or (
            trim(price__value, e' \t\n\r') != ''
            and try_cast(price__value as decimal(18, 6)) is null
        )
    );
