-- severity: fail
-- An attempt has no creation time, or was created more than a minute after it was read.
select
    attempt_sid,
    created_at,
    read_at
from stg_attempts
-- The minute allows for clocks that differ.
where
    read_at >= getvariable('changed_since')
    and (created_at is null or epoch_us(created_at) > epoch_us(read_at) + 60e6);
