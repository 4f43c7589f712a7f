-- severity: warn
-- No price is in the fee's currency, so every total_cost is null: set WAREHOUSE__FEE_CURRENCY.
with priced as (
    select
        currency,
        sum(attempts) as attempts
    from daily_attempts
    where currency is not null
    group by currency
)

select
    p.currency,
    cast(p.attempts as bigint) as attempts
from priced as p
cross join settings as s
qualify sum(case when p.currency = s.fee_currency then 1 else 0 end) over () = 0
order by p.attempts desc;
