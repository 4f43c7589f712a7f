create or replace view verifications as
select
    verification_sid,
    arg_min(service_sid, attempt_number) as service_sid,
    arg_min(country, attempt_number) as country,
    min(created_at) as started_at,
    max(created_at) as last_attempt_at,
    count(*) as attempts,
    list(channel order by attempt_number) as channels,
    arg_min(channel, attempt_number) as first_channel,
    arg_max(channel, attempt_number) as last_channel,
    max(channel) filter (where is_converting_attempt) as converted_channel,
    bool_or(is_converted) as is_converted,
    bool_and(is_mature) as is_mature,
    bool_and(is_settled) as is_settled,
    count(distinct channel) > 1 as has_fallback,
    coalesce(
        max(channel) filter (where is_converting_attempt) != arg_min(channel, attempt_number),
        false
    ) as is_rescued,
    case when count(distinct currency) <= 1 then sum(price) end as channel_spend,
    case when count(distinct currency) <= 1 then max(currency) end as currency
from verification_attempts
group by verification_sid;

comment on view verifications is
'One row per verification: one person proving one destination, in up to five attempts.';
comment on column verifications.verification_sid is 'SID of the verification (VE…).';
comment on column verifications.service_sid is 'SID of the Verify service (VA…).';
comment on column verifications.country is 'Destination country of the first attempt.';
comment on column verifications.started_at is 'When the first attempt was made (UTC).';
comment on column verifications.last_attempt_at is 'When the last attempt was made (UTC).';
comment on column verifications.attempts is 'How many codes were sent.';
comment on column verifications.channels is 'The attempts'' channels, in order.';
comment on column verifications.first_channel is 'Channel of the first attempt.';
comment on column verifications.last_channel is 'Channel of the last attempt.';
comment on column verifications.converted_channel is
'Channel of the converting attempt; null when the verification did not convert.';
comment on column verifications.is_converted is 'Whether any attempt converted.';
comment on column verifications.is_mature is
'Whether all attempts were read when their code could no longer be typed.';
comment on column verifications.is_settled is
'Whether all attempts were read at an age at which nothing is expected to change any more.';
comment on column verifications.has_fallback is 'Whether more than one channel was used.';
comment on column verifications.is_rescued is
'Converted on another channel than the first one: an upper bound, as any code may be typed.';
comment on column verifications.channel_spend is
'Sum of the known channel charges; null when none is known or they are in two currencies.';
comment on column verifications.currency is 'Currency of channel_spend.';
