create or replace view error_codes as
select
    code,
    name
from (
    values
    ('30003', 'Unreachable destination handset'),
    ('30004', 'Message blocked'),
    ('30005', 'Unknown destination handset'),
    ('30006', 'Landline or unreachable carrier'),
    ('30007', 'Message filtered'),
    ('30008', 'Unknown error'),
    ('30034', 'US A2P 10DLC unregistered number'),
    ('30410', 'Provider timeout'),
    ('30450', 'Message delivery blocked (SMS pumping)'),
    ('60410', 'Blocked by Fraud Guard'),
    ('60605', 'Blocked by geo permissions'),
    ('63024', 'Invalid message recipient'),
    ('63036', 'Recipient cannot be reached by RBM')
) as codes (code, name);

comment on view error_codes is
'One row per Twilio error code that verification attempts can have.';
comment on column error_codes.code is 'Twilio error code, as text.';
comment on column error_codes.name is 'Twilio''s name for the error.';
