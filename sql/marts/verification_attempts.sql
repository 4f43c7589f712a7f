create or replace view verification_attempts as
-- noqa: disable=ST02
-- DuckDB takes twice as long for `coalesce`.
select
    a.attempt_sid,
    a.verification_sid,
    case when a.service_sid is null then 'unknown' else a.service_sid end as service_sid,
    case when a.account_sid is null then 'unknown' else a.account_sid end as account_sid,
    a.created_at,
    a.updated_at,
    case when a.channel is null then 'unknown' else a.channel end as channel,
    case when a.country is null then 'unknown' else a.country end as country,
    case when a.locale is null then 'unknown' else a.locale end as locale,
    case when a.carrier is null then 'unknown' else a.carrier end as carrier,
    case when a.mcc is null then 'unknown' else a.mcc end as mcc,
    case when a.mnc is null then 'unknown' else a.mnc end as mnc,
    case when a.destination is null then 'unknown' else a.destination end as destination,
    case
        when a.destination_prefix is null then 'unknown' else a.destination_prefix
    end as destination_prefix,
    a.code_length,
    case
        when a.conversion_status is null then 'unknown' else a.conversion_status
    end as conversion_status,
    a.is_converted,
    coalesce(r.is_converting_attempt, a.is_converted) as is_converting_attempt,
    case
        when a.verification_status is null then 'unknown' else a.verification_status
    end as verification_status,
    case when a.message_status is null then 'unknown' else a.message_status end as message_status,
    case
        when a.receipt is not null then a.receipt
        when a.read_age >= s.settled_after then 'unknown'
        else 'pending'
    end as delivery_outcome,
    a.error_code,
    case when a.error_code is not null then coalesce(e.name, 'unknown') end as error_name,
    a.price,
    case when a.price is null then a.currency else coalesce(a.currency, 'unknown') end as currency,
    coalesce(r.attempt_number, 1) as attempt_number,
    a.read_age >= s.code_validity as is_mature,
    a.read_age >= s.settled_after as is_settled,
    coalesce(r.is_verification_converted, a.is_converted) as is_verification_converted,
    coalesce(r.verification_read_age, a.read_age) >= s.code_validity as is_verification_mature,
    a.read_at,
    a.read_age
from stg_attempts as a
cross join settings as s
left join stg_resends as r
    on a.attempt_sid = r.attempt_sid and a.created_at = r.created_at
left join error_codes as e on a.error_code = e.code;

comment on view verification_attempts is
'One row per attempt: one code sent to one person over one channel.';
comment on column verification_attempts.attempt_sid is 'SID of the attempt (VL…).';
comment on column verification_attempts.verification_sid is
'SID of the attempt''s verification (VE…). A resend is a new attempt of the same verification.';
comment on column verification_attempts.service_sid is 'SID of the Verify service (VA…).';
comment on column verification_attempts.account_sid is 'SID of the account (AC…).';
comment on column verification_attempts.created_at is 'When the attempt was made (UTC).';
comment on column verification_attempts.updated_at is
'When Twilio last changed the attempt (UTC). A price change may leave it as it was.';
comment on column verification_attempts.channel is 'sms, call, email, whatsapp or rbm.';
comment on column verification_attempts.country is
'Destination country, ISO 3166 alpha-2; unknown for e-mail.';
comment on column verification_attempts.locale is 'Language of the message.';
comment on column verification_attempts.carrier is 'Name of the destination network.';
comment on column verification_attempts.mcc is
'Mobile country code, text with its leading zeros.';
comment on column verification_attempts.mnc is
'Mobile network code, text with its leading zeros.';
comment on column verification_attempts.destination is
'Phone number (E.164) or e-mail address: personal data.';
comment on column verification_attempts.destination_prefix is
'Phone number without its last 4 digits; for e-mail the domain, lower case.';
comment on column verification_attempts.code_length is 'Number of digits of the code.';
comment on column verification_attempts.conversion_status is
'converted or unconverted, as Twilio marks this attempt.';
comment on column verification_attempts.is_converted is
'Whether Twilio marks this attempt converted. It may mark one or all attempts of a verification.';
comment on column verification_attempts.is_converting_attempt is
'Whether this is the last converted attempt of its verification (one per conversion).';
comment on column verification_attempts.verification_status is
'Whether the code was typed back: confirmed, unconfirmed or expired.';
comment on column verification_attempts.message_status is
'What the carrier reported about the message or call.';
comment on column verification_attempts.delivery_outcome is
'delivered, failed, pending (no final receipt yet) or unknown (settled without a final receipt).';
comment on column verification_attempts.error_code is 'Twilio error code; null when there is none.';
comment on column verification_attempts.error_name is 'Name of error_code.';
comment on column verification_attempts.price is
'Channel charge in currency, without the fee per verification; null until known.';
comment on column verification_attempts.currency is
'Currency of price, upper case; unknown if Twilio gives a price without a currency.';
comment on column verification_attempts.attempt_number is
'1 for the verification''s first attempt, 2 for its first resend, and so on.';
comment on column verification_attempts.is_mature is
'Whether it was read at age settings.code_validity or later. Conversion rates count only these.';
comment on column verification_attempts.is_settled is
'Whether it was read at age settings.settled_after or later: no more changes are expected.';
comment on column verification_attempts.is_verification_converted is
'Whether any attempt of its verification converted.';
comment on column verification_attempts.is_verification_mature is
'Whether all attempts of its verification are mature.';
comment on column verification_attempts.read_at is 'When this copy was read (UTC).';
comment on column verification_attempts.read_age is 'Age of the attempt when it was read, in seconds.';
