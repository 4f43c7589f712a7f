create or replace view delivery_errors as
with errors as (
    select
        created_date,
        channel,
        country,
        case
            when error_code is not null then error_code
            when delivery_outcome = 'failed' then 'unknown'
        end as error_code,
        sum(attempts) as attempts,
        sum(channel_spend) as spend,
        min(currency) as first_currency,
        max(currency) as last_currency
    from daily_attempts
    group by
        created_date,
        channel,
        country,
        case
            when error_code is not null then error_code
            when delivery_outcome = 'failed' then 'unknown'
        end
),

shares as (
    select
        created_date,
        channel,
        country,
        error_code,
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
    s.created_date,
    s.channel,
    s.country,
    s.error_code,
    coalesce(e.name, 'unknown') as error_name,
    cast(s.attempts as bigint) as attempts,
    s.share,
    s.channel_spend,
    s.currency
from shares as s
left join error_codes as e on s.error_code = e.code
where s.error_code is not null;

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
