create or replace view missed_revisits as
select
    filters_hash,
    unserved_after as created_after,
    unserved_before as created_before,
    age
from stg_unserved
where age > 0
order by filters_hash, age, created_after;

comment on view missed_revisits is
'One row per age and stretch of created time that left retention before a read at that age.';
comment on column missed_revisits.filters_hash is
'Set of filters, as in twilio_verify.windows_read. Each set has its own progress.';
comment on column missed_revisits.created_after is
'Start of the stretch, exclusive (UTC). Its attempts were not read at that age or later.';
comment on column missed_revisits.created_before is 'End of the stretch, inclusive (UTC).';
comment on column missed_revisits.age is 'The age of revisit_ages that was missed, in seconds.';
