-- severity: warn
-- Twilio's count of a day still differs from the warehouse's after the day was read again.
select
    r.created_after,
    r.created_before,
    r.reconciled_at,
    r.api_attempts,
    r.attempts,
    r.api_converted,
    r.converted
from twilio_verify.reconciliations as r
cross join settings as s
where
    r.outcome = 'differs'
    -- A day past retention cannot be compared again. The view coverage keeps Twilio's count.
    and epoch_us(r.created_after) + s.retention * 1000000 > epoch_us(getvariable('now'))
    -- A later comparison with the same filters that includes this window replaces this one.
    and not exists (
        select 1
        from twilio_verify.reconciliations as later
        where
            later.filters_hash is not distinct from r.filters_hash
            and later.created_after <= r.created_after
            and later.created_before >= r.created_before
            and later.reconciled_at > r.reconciled_at
    )
order by r.created_after;
