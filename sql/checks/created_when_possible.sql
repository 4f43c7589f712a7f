-- severity: fail
-- An attempt was created after it was read. (A minute is how far clocks may differ.)
select
    attempt_sid,
    created_at,
    read_at
from stg_attempts
where created_at is null or epoch_us(created_at) > epoch_us(read_at) + 60e6;
