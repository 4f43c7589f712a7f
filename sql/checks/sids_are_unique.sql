-- severity: fail
-- An attempt is stored twice (and counted twice), or has no SID.
select
    sid,
    count(*) as copies
from twilio_verify.attempts
group by sid
having count(*) > 1 or sid is null or sid = '';
