create or replace view stg_attempts as
select
    sid as attempt_sid,
    coalesce(
        nullif(verification_sid, ''), nullif(channel_data__verification_sid, ''), sid
    ) as verification_sid,
    nullif(service_sid, '') as service_sid,
    nullif(account_sid, '') as account_sid,
    lower(nullif(channel, '')) as channel,
    upper(nullif(channel_data__country, '')) as country,
    nullif(channel_data__locale, '') as locale,
    nullif(channel_data__carrier, '') as carrier,
    nullif(channel_data__mcc, '') as mcc,
    nullif(channel_data__mnc, '') as mnc,
    nullif(channel_data__to, '') as destination,
    case
        when contains(channel_data__to, '@')
            then nullif(lower(split_part(channel_data__to, '@', -1)), '')
        -- Same result as the else branch, but DuckDB computes it once per distinct number. That
        -- saves a fifth of the time of pumping_suspects.
        when length(channel_data__to) > 5 then left(channel_data__to, -4)
        else nullif(nullif(left(channel_data__to, -4), ''), '+')
    end as destination_prefix,
    lower(nullif(conversion_status, '')) as conversion_status,
    lower(nullif(channel_data__status, '')) as verification_status,
    lower(nullif(channel_data__message_status, '')) as message_status,
    -- No `in (...)` lists: each would cost a join in every view, even in those that do not use the
    -- column.
    case lower(channel_data__message_status)
        when 'delivered' then 'delivered'
        when 'read' then 'delivered'
        when 'completed' then 'delivered'
        when 'undelivered' then 'failed'
        when 'failed' then 'failed'
        when 'canceled' then 'failed'
        when 'busy' then 'failed'
        when 'no-answer' then 'failed'
    end as receipt,
    nullif(nullif(trim(channel_data__error_code), ''), '0') as error_code,
    upper(nullif(price__currency, '')) as currency,
    try_cast(channel_data__code_length as integer) as code_length,
    try_cast(price__value as decimal(18, 6)) as price,
    date_created as created_at,
    date_updated as updated_at,
    read_at,
    -- In microseconds: a difference of timestamps counts days in the reader's time zone.
    to_microseconds(epoch_us(read_at) - epoch_us(date_created)) as read_age,
    coalesce(lower(conversion_status) = 'converted', false) as is_converted
from twilio_verify.attempts;

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
comment on column stg_attempts.destination is 'Phone number (E.164) or e-mail address.';
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
comment on column stg_attempts.read_age is 'Age of the attempt when it was read.';
comment on column stg_attempts.is_converted is 'Whether Twilio marks this attempt converted.';
