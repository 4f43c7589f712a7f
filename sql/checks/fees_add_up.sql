-- severity: warn
-- Prices are known, but none in WAREHOUSE__FEE_CURRENCY: every total_cost is null.
with priced as (
    select
        upper(price__currency) as currency,
        count(*) as attempts
    from twilio_verify.attempts
    where price__value != '' and price__currency != ''
    group by upper(price__currency)
)

select
    p.currency,
    p.attempts
from priced as p
cross join settings as s
qualify count(*) filter (where p.currency = s.fee_currency) over () = 0
order by p.attempts desc;
