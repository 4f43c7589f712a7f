-- severity: warn
-- Of a day, Twilio's own count still differs from the warehouse's by the newest comparison.
with newest as (
    select
        created_after,
        created_before,
        reconciled_at,
        api_attempts,
        attempts,
        api_converted,
        converted,
        outcome,
        row_number() over (
            partition by filters_hash, created_after, created_before
            order by reconciled_at desc
        ) as place
    from twilio_verify.reconciliations
)

select
    created_after,
    created_before,
    reconciled_at,
    api_attempts,
    attempts,
    api_converted,
    converted
from newest
where place = 1 and outcome = 'differs'
order by created_after;
