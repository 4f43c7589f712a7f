create or replace view channel_fallback as
with mature as (
    select
        v.first_channel,
        v.channels,
        v.converted_channel,
        cast(
            date_trunc('month', cast(timezone(s.timezone, v.started_at) as date)) as date
        ) as created_month
    from verifications as v
    cross join settings as s
    where v.is_mature and v.has_fallback
),

kinds as (
    select
        created_month,
        first_channel,
        channels,
        converted_channel,
        count(*) as verifications
    from mature
    group by created_month, first_channel, channels, converted_channel
),

sends as (
    select
        created_month,
        first_channel,
        channels,
        converted_channel,
        verifications,
        unnest(channels) as channel,
        generate_subscripts(channels, 1) as attempt_number
    from kinds
),

moved as (
    select
        created_month,
        first_channel,
        converted_channel,
        verifications,
        arg_min(channel, attempt_number) as next_channel
    from sends
    where channel != first_channel
    group by created_month, first_channel, channels, converted_channel, verifications
),

counted as (
    select
        created_month,
        first_channel,
        next_channel,
        sum(verifications) as verifications,
        coalesce(
            sum(verifications) filter (where converted_channel = next_channel), 0
        ) as converted
    from moved
    group by created_month, first_channel, next_channel
)

select
    created_month,
    first_channel,
    next_channel,
    cast(verifications as bigint) as verifications,
    cast(converted as bigint) as converted,
    converted / verifications as rescue_rate
from counted;

comment on view channel_fallback is
'One row per month, first channel and the next channel that was tried after it.';
comment on column channel_fallback.created_month is
'First day of the month of the first attempt in settings.timezone.';
comment on column channel_fallback.first_channel is 'Channel of the first attempt.';
comment on column channel_fallback.next_channel is 'The first other channel that was tried.';
comment on column channel_fallback.verifications is
'Mature verifications that moved to next_channel.';
comment on column channel_fallback.converted is
'Of these, how many converted on next_channel, not on any other channel.';
comment on column channel_fallback.rescue_rate is
'converted / verifications. An upper bound: the user may have entered an earlier code.';
