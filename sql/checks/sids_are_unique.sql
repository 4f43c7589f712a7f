-- severity: fail
-- An attempt is stored twice (and counted twice), or has no SID.
-- A copy has the same creation time, so nothing older than what changed is looked at.
with changed as (
    select sid
    from twilio_verify.attempts
    where read_at >= getvariable('changed_since')
)

select
    a.sid,
    count(*) as copies
from twilio_verify.attempts as a
where
    a.date_created >= getvariable('created_since')
    and exists (
        select 1
        from changed as c
        where c.sid is not distinct from a.sid
    )
group by a.sid
having count(*) > 1 or a.sid is null or a.sid = '';
