create or replace view missed_revisits as
select
    filters_hash,
    unserved_after as created_after,
    unserved_before as created_before,
    age
from stg_unserved
where age > to_seconds(0)
order by filters_hash, age, created_after;

comment on view missed_revisits is
'One row per age and stretch of created time that left retention without a read at that age.';
comment on column missed_revisits.filters_hash is
'Set of filters, as in twilio_verify.windows_read: each has its own progress.';
comment on column missed_revisits.created_after is
'Attempts created after this instant were not read at that age or later (UTC) …';
comment on column missed_revisits.created_before is '… up to and including this one (UTC).';
comment on column missed_revisits.age is 'The age of settings.revisit_after that was missed.';
