create or replace view verifications as
with several as (
    select
        verification_sid,
        arg_min(attempt_sid, attempt_number) as first_attempt_sid,
        count(*) as attempts,
        max(created_at) as last_attempt_at,
        list(coalesce(channel, 'unknown') order by attempt_number) as channels,
        max(attempt_number) filter (where is_converting_attempt) as converted_attempt_number,
        min(verification_read_age) as read_age,
        bool_and(coalesce(receipt = 'failed', false)) as is_undelivered,
        sum(price) as channel_spend,
        min(coalesce(currency, 'unknown')) filter (where price is not null) as first_currency,
        max(coalesce(currency, 'unknown')) filter (where price is not null) as last_currency
    from stg_resends
    group by verification_sid
)

select
    a.verification_sid,
    coalesce(a.service_sid, 'unknown') as service_sid,
    coalesce(a.country, 'unknown') as country,
    coalesce(a.destination, 'unknown') as destination,
    coalesce(a.destination_prefix, 'unknown') as destination_prefix,
    a.created_at as started_at,
    coalesce(s.last_attempt_at, a.created_at) as last_attempt_at,
    coalesce(s.attempts, 1) as attempts,
    coalesce(s.channels, [coalesce(a.channel, 'unknown')]) as channels,
    coalesce(a.channel, 'unknown') as first_channel,
    coalesce(s.channels[-1], a.channel, 'unknown') as last_channel,
    case
        when s.attempts > 1 then s.channels[s.converted_attempt_number]
        when a.is_converted then coalesce(a.channel, 'unknown')
    end as converted_channel,
    case
        when s.attempts > 1 then s.converted_attempt_number
        when a.is_converted then 1
    end as converted_attempt_number,
    case
        when s.attempts > 1 then s.converted_attempt_number is not null
        else a.is_converted
    end as is_converted,
    coalesce(s.read_age, a.read_age) >= c.code_validity as is_mature,
    coalesce(s.read_age, a.read_age) >= c.settled_after as is_settled,
    coalesce(s.is_undelivered, a.receipt = 'failed', false) as is_undelivered,
    coalesce(len(list_distinct(s.channels)) > 1, false) as has_fallback,
    coalesce(s.channels[s.converted_attempt_number] != s.channels[1], false) as is_rescued,
    case
        when s.attempts is null then a.price
        when s.first_currency = s.last_currency then s.channel_spend
    end as channel_spend,
    case
        when s.attempts > 1 and s.first_currency != s.last_currency then 'mixed'
        when s.attempts > 1 then s.first_currency
        when a.price is not null then coalesce(a.currency, 'unknown')
    end as currency
from stg_attempts as a
cross join settings as c
left join several as s on a.verification_sid = s.verification_sid
where s.attempts is null or a.attempt_sid = s.first_attempt_sid;

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
'Whether it converted on another channel than the first. An upper bound: the user may have '
'entered an earlier code.';
comment on column verifications.channel_spend is
'Sum of the known channel charges; null if none is known or if they are in two currencies.';
comment on column verifications.currency is
'Currency of channel_spend; mixed if there are two, null if no charge is known.';
