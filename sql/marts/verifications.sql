create or replace view verifications as
select
    a.verification_sid,
    coalesce(a.service_sid, 'unknown') as service_sid,
    coalesce(a.country, 'unknown') as country,
    coalesce(a.destination, 'unknown') as destination,
    coalesce(a.destination_prefix, 'unknown') as destination_prefix,
    a.created_at as started_at,
    coalesce(r.last_attempt_at, a.created_at) as last_attempt_at,
    coalesce(r.attempts, 1) as attempts,
    coalesce(r.channels, [coalesce(a.channel, 'unknown')]) as channels,
    coalesce(a.channel, 'unknown') as first_channel,
    coalesce(r.last_channel, a.channel, 'unknown') as last_channel,
    case
        when r.attempts is not null then r.converted_channel
        when a.is_converted then coalesce(a.channel, 'unknown')
    end as converted_channel,
    case
        when r.attempts is not null then r.converted_attempt_number
        when a.is_converted then 1
    end as converted_attempt_number,
    coalesce(r.is_verification_converted, a.is_converted) as is_converted,
    coalesce(r.verification_read_age, a.read_age) >= c.code_validity as is_mature,
    coalesce(r.verification_read_age, a.read_age) >= c.settled_after as is_settled,
    coalesce(r.is_undelivered, a.receipt = 'failed', false) as is_undelivered,
    r.next_channel is not null as has_fallback,
    coalesce(r.converted_channel != r.channel, false) as is_rescued,
    case when r.attempts is not null then r.channel_spend else a.price end as channel_spend,
    case
        when r.attempts is not null then r.currency
        when a.price is not null then coalesce(a.currency, 'unknown')
    end as currency
from stg_attempts as a
cross join settings as c
left join stg_resends as r
    on a.attempt_sid = r.attempt_sid and a.created_at = r.created_at
where coalesce(r.attempt_number, 1) = 1;

comment on view verifications is
'One row per verification: one person confirms one destination, in up to five attempts.';
comment on column verifications.verification_sid is 'SID of the verification (VE…).';
comment on column verifications.service_sid is 'SID of the Verify service (VA…).';
comment on column verifications.country is 'Destination country of the first attempt.';
comment on column verifications.destination is
'Phone number (E.164) or e-mail address of the first attempt: personal data.';
comment on column verifications.destination_prefix is
'Phone number without its last 4 digits; for e-mail the domain, lower case.';
comment on column verifications.started_at is 'When the first attempt was made (UTC).';
comment on column verifications.last_attempt_at is 'When the last attempt was made (UTC).';
comment on column verifications.attempts is 'How many codes were sent.';
comment on column verifications.channels is 'The attempts'' channels, in order.';
comment on column verifications.first_channel is 'Channel of the first attempt.';
comment on column verifications.last_channel is 'Channel of the last attempt.';
comment on column verifications.converted_channel is
'Channel of the converting attempt; null when the verification did not convert.';
comment on column verifications.converted_attempt_number is
'attempt_number of the converting attempt; null when the verification did not convert.';
comment on column verifications.is_converted is 'Whether any attempt converted.';
comment on column verifications.is_mature is
'Whether all attempts were read at age settings.code_validity or later.';
comment on column verifications.is_settled is
'Whether all attempts were read at age settings.settled_after or later.';
comment on column verifications.is_undelivered is
'Whether every attempt has delivery_outcome failed.';
comment on column verifications.has_fallback is 'Whether more than one channel was used.';
comment on column verifications.is_rescued is
'Whether it converted on another channel than the first. An upper bound: the user may have entered an earlier code.';
comment on column verifications.channel_spend is
'Sum of the known channel charges; null if none is known or if they are in two currencies.';
comment on column verifications.currency is
'Currency of channel_spend; mixed if there are two, null if no charge is known.';
