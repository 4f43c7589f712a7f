create or replace view stg_attempts as
-- The API's text without white space around it. DuckDB keeps few distinct values in a dictionary,
-- and trims each of them once.
with trimmed as (
    select
        sid,
        case
            when verification_sid != '' then verification_sid
            else coalesce(nullif(channel_data__verification_sid, ''), sid)
        end as verification_sid,
        service_sid,
        account_sid,
        lower(trim(channel, e' \t\n\r')) as channel,
        upper(trim(channel_data__country, e' \t\n\r')) as country,
        channel_data__locale as locale,
        channel_data__carrier as carrier,
        channel_data__mcc as mcc,
        channel_data__mnc as mnc,
        -- A number may follow its channel, as in whatsapp:+57… An e-mail address may hold `:+` too.
        case
            when channel_data__to like '+%' then channel_data__to
            when channel_data__to like '%:+%' and channel_data__to not like '%@%'
                then '+' || trim(split_part(channel_data__to, ':+', -1))
            else trim(channel_data__to)
        end as destination,
        channel_data__to,
        lower(trim(conversion_status, e' \t\n\r')) as conversion_status,
        lower(trim(channel_data__status, e' \t\n\r')) as verification_status,
        lower(trim(channel_data__message_status, e' \t\n\r')) as message_status,
        -- 30008.0 is 30008. No error may be written as 0, 0.0, null, None or NaN.
        regexp_replace(
            trim(channel_data__error_code, e' \t\n\r'),
            '^(0|[Nn][Uu][Ll][Ll]|[Nn][Oo][Nn][Ee]|[Nn][Aa][Nn])([.]0*)?$|[.]0*$',
            ''
        ) as error_code,
        upper(trim(price__currency, e' \t\n\r')) as currency,
        channel_data__code_length as code_length,
        price__value as price,
        date_created as created_at,
        date_updated as updated_at,
        read_at
    from twilio_verify.attempts
)

select
    sid as attempt_sid,
    verification_sid,
    nullif(service_sid, '') as service_sid,
    nullif(account_sid, '') as account_sid,
    nullif(channel, '') as channel,
    nullif(country, '') as country,
    nullif(locale, '') as locale,
    nullif(carrier, '') as carrier,
    nullif(mcc, '') as mcc,
    nullif(mnc, '') as mnc,
    nullif(destination, '') as destination,
    case
        -- Nearly all are numbers in this form.
        when
            channel_data__to like '+%'
            and channel_data__to not like '%@%'
            and length(channel_data__to) > 5
            then substring(channel_data__to, 1, length(channel_data__to) - 4)
        when destination like '%@%' then nullif(lower(split_part(destination, '@', -1)), '')
        when length(destination) > 5 then substring(destination, 1, length(destination) - 4)
        when length(destination) = 5 then nullif(substring(destination, 1, 1), '+')
    end as destination_prefix,
    nullif(conversion_status, '') as conversion_status,
    nullif(verification_status, '') as verification_status,
    nullif(message_status, '') as message_status,
    -- No `in (...)` lists: each would cost a join in every view, even in those that do not use the
    -- column.
    case message_status
        when 'delivered' then 'delivered'
        when 'read' then 'delivered'
        when 'completed' then 'delivered'
        when 'undelivered' then 'failed'
        when 'failed' then 'failed'
        when 'canceled' then 'failed'
        when 'busy' then 'failed'
        when 'no-answer' then 'failed'
    end as receipt,
    nullif(error_code, '') as error_code,
    nullif(currency, '') as currency,
    try_cast(code_length as integer) as code_length,
    try_cast(price as decimal(18, 6)) as price,
    created_at,
    updated_at,
    read_at,
    -- A number: few programs can read an interval.
    (epoch_us(read_at) - epoch_us(created_at)) / 1e6 as read_age,
    coalesce(conversion_status = 'converted', false) as is_converted
from trimmed;

comment on view stg_attempts is
'One row per attempt: raw values, renamed, cast and normalised. Unknown values stay null.';
comment on column stg_attempts.attempt_sid is 'SID of the attempt (VL…).';
comment on column stg_attempts.verification_sid is
'SID of the attempt''s verification (VE…); the attempt''s own SID if Twilio gives none.';
comment on column stg_attempts.service_sid is 'SID of the Verify service (VA…).';
comment on column stg_attempts.account_sid is 'SID of the account (AC…).';
comment on column stg_attempts.channel is 'sms, call, email, whatsapp or rbm, lower case.';
comment on column stg_attempts.country is 'Destination country, ISO 3166 alpha-2, upper case.';
comment on column stg_attempts.locale is 'Language of the message, as Twilio gives it.';
comment on column stg_attempts.carrier is 'Name of the destination network.';
comment on column stg_attempts.mcc is 'Mobile country code, text with its leading zeros.';
comment on column stg_attempts.mnc is 'Mobile network code, text with its leading zeros.';
comment on column stg_attempts.destination is
'Phone number (E.164, without a channel such as whatsapp: before it) or e-mail address.';
comment on column stg_attempts.destination_prefix is
'Phone number without its last 4 digits; for e-mail the domain, lower case.';
comment on column stg_attempts.conversion_status is 'converted or unconverted, lower case.';
comment on column stg_attempts.verification_status is
'Whether the code was typed back: confirmed, unconfirmed or expired.';
comment on column stg_attempts.message_status is
'What the carrier reported about the message or call, lower case.';
comment on column stg_attempts.receipt is
'delivered or failed, if message_status is final; otherwise null.';
comment on column stg_attempts.error_code is
'Twilio error code; null if there is no error, in whichever way the API writes that.';
comment on column stg_attempts.currency is 'Currency of price, upper case.';
comment on column stg_attempts.code_length is 'Number of digits of the code.';
comment on column stg_attempts.price is
'Channel charge of the attempt, without the fee per verification; null until known.';
comment on column stg_attempts.created_at is 'When the attempt was made (UTC).';
comment on column stg_attempts.updated_at is 'When Twilio last changed the attempt (UTC).';
comment on column stg_attempts.read_at is 'When this copy of the attempt was read (UTC).';
comment on column stg_attempts.read_age is 'Age of the attempt when it was read, in seconds.';
comment on column stg_attempts.is_converted is 'Whether Twilio marks this attempt converted.';
