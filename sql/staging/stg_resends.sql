create or replace table stg_resends as
-- Few verifications have more than one attempt. Sorting only their attempts is five times faster
-- than sorting all attempts.
with several as (
    select verification_sid
    from stg_attempts
    group by verification_sid
    having count(*) > 1
),

numbered as (
    select
        a.attempt_sid,
        a.verification_sid,
        coalesce(a.channel, 'unknown') as channel,
        a.receipt,
        a.price,
        case when a.price is not null then coalesce(a.currency, 'unknown') end as currency,
        a.created_at,
        a.is_converted,
        a.read_age,
        row_number() over (
            partition by a.verification_sid
            order by a.created_at, a.attempt_sid
        ) as attempt_number
    from stg_attempts as a
    inner join several as s on a.verification_sid = s.verification_sid
),

totals as (
    select
        verification_sid,
        count(*) as attempts,
        max(created_at) as last_attempt_at,
        max(attempt_number) filter (where is_converted) as converted_attempt_number,
        min(read_age) as read_age,
        sum(case when receipt = 'failed' then 0 else 1 end) = 0 as is_undelivered,
        max(channel) filter (where attempt_number = 1) as first_channel,
        sum(price) as channel_spend,
        min(currency) as first_currency,
        max(currency) as last_currency
    from numbered
    group by verification_sid
),

others as (
    select
        n.verification_sid,
        min(n.attempt_number) as attempt_number
    from numbered as n
    inner join totals as t on n.verification_sid = t.verification_sid
    where n.channel != t.first_channel
    group by n.verification_sid
),

chosen as (
    select
        n.verification_sid,
        max(n.channel) filter (where n.attempt_number = t.attempts) as last_channel,
        max(n.channel) filter (where n.attempt_number = o.attempt_number) as next_channel,
        max(n.channel) filter (
            where n.attempt_number = t.converted_attempt_number
        ) as converted_channel
    from numbered as n
    inner join totals as t on n.verification_sid = t.verification_sid
    left join others as o on n.verification_sid = o.verification_sid
    group by n.verification_sid
)

select
    n.attempt_sid,
    n.verification_sid,
    n.created_at,
    n.channel,
    n.attempt_number,
    coalesce(n.attempt_number = t.converted_attempt_number, false) as is_converting_attempt,
    t.attempts,
    t.last_attempt_at,
    list(n.channel) over (
        partition by n.verification_sid
        order by n.attempt_number
        rows between unbounded preceding and unbounded following
    ) as channels,
    c.next_channel,
    c.last_channel,
    c.converted_channel,
    t.converted_attempt_number,
    t.converted_attempt_number is not null as is_verification_converted,
    t.read_age as verification_read_age,
    t.is_undelivered,
    case when t.first_currency = t.last_currency then t.channel_spend end as channel_spend,
    case
        when t.first_currency = t.last_currency then t.first_currency
        when t.first_currency is not null then 'mixed'
    end as currency
from numbered as n
inner join totals as t on n.verification_sid = t.verification_sid
inner join chosen as c on n.verification_sid = c.verification_sid
-- So that a load finds what it touched without reading the whole table.
order by n.created_at;

comment on table stg_resends is
'One row per attempt of a verification that has several attempts. A table, refreshed by each load.';
comment on column stg_resends.attempt_sid is 'SID of the attempt (VL…).';
comment on column stg_resends.verification_sid is 'SID of its verification (VE…).';
comment on column stg_resends.created_at is 'When the attempt was made (UTC).';
comment on column stg_resends.channel is 'Channel of the attempt.';
comment on column stg_resends.attempt_number is
'1 for the verification''s first attempt, by created_at and then by SID.';
comment on column stg_resends.is_converting_attempt is
'Whether this is the last converted attempt of its verification.';
comment on column stg_resends.attempts is 'How many attempts the verification has.';
comment on column stg_resends.last_attempt_at is
'When the verification''s last attempt was made (UTC).';
comment on column stg_resends.channels is 'The channels of the verification''s attempts, in order.';
comment on column stg_resends.next_channel is
'The verification''s first channel after another one; null if it has only one.';
comment on column stg_resends.last_channel is 'Channel of the verification''s last attempt.';
comment on column stg_resends.converted_channel is
'Channel of the converting attempt; null when the verification did not convert.';
comment on column stg_resends.converted_attempt_number is
'attempt_number of the converting attempt; null when the verification did not convert.';
comment on column stg_resends.is_verification_converted is
'Whether any attempt of the verification converted.';
comment on column stg_resends.verification_read_age is
'The smallest read_age among the attempts of the verification, in seconds.';
comment on column stg_resends.is_undelivered is
'Whether every attempt of the verification failed to be delivered.';
comment on column stg_resends.channel_spend is
'Sum of the verification''s known prices; null if none is known or if they are in two currencies.';
comment on column stg_resends.currency is
'Currency of channel_spend; mixed if there are two, null if no price is known.';
