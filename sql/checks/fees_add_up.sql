-- severity: warn
-- Prices are known, but none in WAREHOUSE__FEE_CURRENCY: every total_cost is null.
with priced as (
    select
        coalesce(currency, 'unknown') as currency,
        count(*) as attempts
    from stg_attempts
    where price is not null
    group by coalesce(currency, 'unknown')
)

select
    p.currency,
    p.attempts
from priced as p
cross join settings as s
qualify count(*) filter (where p.currency = s.fee_currency) over () = 0
order by p.attempts desc;
