create or replace view delivery_errors as
with attempts as (
    select
        cast(timezone(s.timezone, a.created_at) as date) as created_date,
        a.channel,
        a.country,
        case
            when a.error_code is not null then a.error_code
            when a.delivery_outcome = 'failed' then 'unknown'
        end as error_code,
        a.error_name,
        a.price,
        a.currency
    from verification_attempts as a
    cross join settings as s
),

errors as (
    select
        created_date,
        channel,
        country,
        error_code,
        coalesce(any_value(error_name), 'unknown') as error_name,
        count(*) as attempts,
        sum(price) as spend,
        min(currency) filter (where price is not null) as first_currency,
        max(currency) filter (where price is not null) as last_currency
    from attempts
    group by created_date, channel, country, error_code
),

shares as (
    select
        created_date,
        channel,
        country,
        error_code,
        error_name,
        attempts,
        attempts / sum(attempts) over (
            partition by created_date, channel, country
        ) as share,
        case when first_currency = last_currency then spend end as channel_spend,
        case
            when first_currency = last_currency then first_currency
            when first_currency is not null then 'mixed'
        end as currency
    from errors
)

select
    created_date,
    channel,
    country,
    error_code,
    error_name,
    attempts,
    share,
    channel_spend,
    currency
from shares
where error_code is not null;

comment on view delivery_errors is
'One row per day, channel, country and error code; attempts without an error have no row.';
comment on column delivery_errors.created_date is 'Day of creation in settings.timezone.';
comment on column delivery_errors.channel is 'Channel of the attempts.';
comment on column delivery_errors.country is 'Destination country; unknown for e-mail.';
comment on column delivery_errors.error_code is
'Twilio error code; unknown if an attempt failed without one, such as a call to a busy line.';
comment on column delivery_errors.error_name is 'Name of error_code.';
comment on column delivery_errors.attempts is
'Attempts with this error code. A few of them may have been delivered in the end.';
comment on column delivery_errors.share is
'attempts / all attempts of the day, channel and country.';
comment on column delivery_errors.channel_spend is
'Sum of their known channel charges; null if none is known or if they are in two currencies.';
comment on column delivery_errors.currency is
'Currency of channel_spend; mixed if there are two, null if no charge is known.';
