create or replace view conversion_cost as
with currencies as (
    select
        currency,
        sum(attempts) as priced
    from daily_attempts
    where currency != 'unknown'
    group by currency
),

usual as (
    select coalesce(
        (
            select currency
            from currencies
            order by priced desc, currency asc
            limit 1
        ),
        'unknown'
    ) as currency
),

attempts as (
    select
        d.created_date,
        d.service_sid,
        d.channel,
        d.country,
        coalesce(d.currency, u.currency) as currency,
        d.attempts,
        case when d.currency is null then 0 else d.attempts end as priced,
        d.price_pending,
        d.channel_spend,
        d.wasted_spend,
        d.credited_conversions
    from daily_attempts as d
    cross join usual as u
),

cells as (
    select
        created_date,
        service_sid,
        channel,
        country,
        currency,
        cast(sum(attempts) as bigint) as attempts,
        cast(sum(priced) as bigint) as priced,
        cast(sum(price_pending) as bigint) as price_pending,
        cast(sum(attempts) - sum(priced) - sum(price_pending) as bigint) as unpriced,
        coalesce(sum(channel_spend), 0) as channel_spend,
        coalesce(sum(wasted_spend), 0) as wasted_spend,
        cast(sum(credited_conversions) as bigint) as credited_conversions
    from attempts
    group by created_date, service_sid, channel, country, currency
),

costs as (
    select
        c.created_date,
        c.service_sid,
        c.channel,
        c.country,
        c.currency,
        c.attempts,
        c.priced,
        c.price_pending,
        c.unpriced,
        c.channel_spend,
        c.wasted_spend,
        c.credited_conversions,
        c.credited_conversions * s.verification_fee as verification_fees,
        case
            when c.currency = s.fee_currency
                then c.channel_spend + c.credited_conversions * s.verification_fee
        end as total_cost,
        try_cast(
            coalesce(
                sum(c.channel_spend) over alike / nullif(sum(c.priced) over alike, 0),
                sum(c.channel_spend) over channels / nullif(sum(c.priced) over channels, 0),
                sum(c.channel_spend) over currencies / nullif(sum(c.priced) over currencies, 0)
            ) as decimal(18, 6)
        ) as mean_price
    from cells as c
    cross join settings as s
    window
        alike as (partition by c.channel, c.country, c.currency),
        channels as (partition by c.channel, c.currency),
        currencies as (partition by c.currency)
)

select
    created_date,
    service_sid,
    channel,
    country,
    currency,
    attempts,
    priced,
    price_pending,
    unpriced,
    channel_spend,
    wasted_spend,
    credited_conversions,
    verification_fees,
    total_cost,
    case
        when price_pending = 0 then total_cost
        else total_cost + price_pending * mean_price
    end as total_cost_estimate,
    try_cast(total_cost / nullif(credited_conversions, 0) as decimal(18, 6)) as cost_per_conversion
from costs;

comment on view conversion_cost is
'One row per day, service, channel, country and currency: what the attempts cost.';
comment on column conversion_cost.created_date is 'Day of creation in settings.timezone.';
comment on column conversion_cost.service_sid is 'SID of the Verify service (VA…).';
comment on column conversion_cost.channel is 'Channel of the attempts.';
comment on column conversion_cost.country is 'Destination country; unknown for e-mail.';
comment on column conversion_cost.currency is
'Currency of the row. Attempts without a price count under the account''s most frequent currency.';
comment on column conversion_cost.attempts is 'All attempts, mature or not.';
comment on column conversion_cost.priced is
'Attempts whose price is known. Compare costs only if nearly all are: unknown prices count as 0.';
comment on column conversion_cost.price_pending is
'Attempts that are not settled and whose price is not known yet.';
comment on column conversion_cost.unpriced is 'Settled attempts that never got a price.';
comment on column conversion_cost.channel_spend is 'Sum of the known prices; 0 if none is known.';
comment on column conversion_cost.wasted_spend is
'Part of channel_spend: cost of mature verifications that never converted.';
comment on column conversion_cost.credited_conversions is
'Verifications converted by an attempt in this row. Each verification counts in one row only.';
comment on column conversion_cost.verification_fees is
'credited_conversions times settings.verification_fee, in settings.fee_currency.';
comment on column conversion_cost.total_cost is
'channel_spend + verification_fees; null if currency is not settings.fee_currency. Group by currency when you sum it.';
comment on column conversion_cost.total_cost_estimate is
'total_cost plus an estimate of each pending price: the mean price of the channel and country, else of the channel, else of all attempts, in the same currency.';
comment on column conversion_cost.cost_per_conversion is
'total_cost / credited_conversions; null if there is no total_cost or no conversion. Costs of the same verifications on other channels are in the rows of those channels.';
