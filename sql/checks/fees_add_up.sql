-- severity: warn
-- No price is in the fee's currency, so every total_cost is null: set WAREHOUSE__FEE_CURRENCY.
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
