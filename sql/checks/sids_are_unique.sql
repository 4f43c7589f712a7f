-- severity: fail
-- An attempt is stored twice, and so counted twice, or has no sid.
select
    sid,
    count(*) as copies
from twilio_verify.attempts
group by sid
having count(*) > 1 or sid is null or sid = '';
