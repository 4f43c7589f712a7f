create or replace view channel_fallback as
with moved as (
    select
        r.channel as first_channel,
        r.next_channel,
        coalesce(r.converted_channel = r.next_channel, false) as is_converted,
        cast(
            date_trunc('month', cast(r.created_at at time zone s.timezone as date)) as date
        ) as created_month
    from stg_resends as r
    cross join settings as s
    where
        r.attempt_number = 1
        and r.next_channel is not null
        and r.verification_read_age >= s.code_validity
)

select
    created_month,
    first_channel,
    next_channel,
    count(*) as verifications,
    count(*) filter (where is_converted) as converted,
    count(*) filter (where is_converted) / count(*) as rescue_rate
from moved
group by created_month, first_channel, next_channel;

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
