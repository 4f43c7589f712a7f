create or replace view gaps as
select
    filters_hash,
    unserved_after as lost_after,
    unserved_before as lost_before
from stg_unserved
where age = 0
order by filters_hash, lost_after;

comment on view gaps is
'One row per stretch of created time that left retention unread. Its attempts are lost.';
comment on column gaps.filters_hash is
'Set of filters, as in twilio_verify.windows_read. Each set has its own progress.';
comment on column gaps.lost_after is 'Start of the stretch, exclusive (UTC).';
comment on column gaps.lost_before is 'End of the stretch, inclusive (UTC).';
