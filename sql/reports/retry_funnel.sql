create or replace view retry_funnel as
with mature as (
    select
        v.first_channel,
        v.attempts,
        v.converted_attempt_number,
        v.is_converted,
        cast(
            date_trunc('month', cast(v.started_at at time zone s.timezone as date)) as date
        ) as created_month
    from verifications as v
    cross join settings as s
    where v.is_mature
),

-- Group verifications first: expanding the few groups to one row per send is cheap.
kinds as (
    select
        created_month,
        first_channel,
        attempts,
        converted_attempt_number,
        is_converted,
        count(*) as verifications
    from mature
    group by created_month, first_channel, attempts, converted_attempt_number, is_converted
),

numbers as (
    select 1 as attempt_number
    union
    select attempt_number from stg_resends
),

sends as (
    select
        k.created_month,
        k.first_channel,
        k.verifications,
        k.converted_attempt_number,
        k.is_converted,
        n.attempt_number
    from kinds as k
    inner join numbers as n on k.attempts >= n.attempt_number
),

reached as (
    select
        created_month,
        first_channel,
        attempt_number,
        sum(verifications) as verifications,
        coalesce(
            sum(verifications) filter (where converted_attempt_number = attempt_number), 0
        ) as converted_here,
        coalesce(sum(verifications) filter (where is_converted), 0) as converted
    from sends
    group by created_month, first_channel, attempt_number
)

select
    created_month,
    first_channel,
    attempt_number,
    cast(verifications as bigint) as verifications,
    verifications / first_value(verifications) over (
        partition by created_month, first_channel
        order by attempt_number
    ) as reached_share,
    cast(converted_here as bigint) as converted_here,
    converted_here / verifications as converted_here_share,
    cast(converted as bigint) as converted,
    converted / verifications as converted_share
from reached;

comment on view retry_funnel is
'One row per month, first channel and number of the send: how many verifications reach it.';
comment on column retry_funnel.created_month is
'First day of the month of the first attempt in settings.timezone.';
comment on column retry_funnel.first_channel is 'Channel of the first attempt.';
comment on column retry_funnel.attempt_number is
'1 for the first send, 2 for the first resend, and so on.';
comment on column retry_funnel.verifications is 'Mature verifications that reached this send.';
comment on column retry_funnel.reached_share is
'verifications / verifications of the first send.';
comment on column retry_funnel.converted_here is
'Of these, how many converted with this send (the last attempt marked converted). An upper bound: the user may have entered an earlier code.';
comment on column retry_funnel.converted_here_share is 'converted_here / verifications.';
comment on column retry_funnel.converted is 'Of these, how many converted with any send.';
comment on column retry_funnel.converted_share is 'converted / verifications.';
