create or replace table settings (
    verification_fee decimal(18, 6),
    fee_currency varchar,
    timezone varchar,
    pumping_verifications bigint,
    pumping_destinations bigint,
    pumping_rate double,
    pumping_z_score double,
    code_validity bigint,
    settled_after bigint,
    retention bigint
);

create or replace table revisit_ages (age bigint);

comment on table settings is 'One row: the settings that the views use.';
comment on column settings.verification_fee is
'Twilio''s fee per successful verification, on top of the channel price.';
comment on column settings.fee_currency is 'Currency of verification_fee, upper case.';
comment on column settings.timezone is 'IANA time zone of the days in created_date.';
comment on column settings.pumping_verifications is
'A pumping suspect has at least this many verifications a day.';
comment on column settings.pumping_destinations is
'A pumping suspect has at least this many destinations that are not undelivered.';
comment on column settings.pumping_rate is
'A pumping suspect has a success rate below the baseline times this.';
comment on column settings.pumping_z_score is
'A pumping suspect is at least this many standard deviations below the baseline.';
comment on column settings.code_validity is
'An attempt read at this age (in seconds) or later is mature: Twilio''s default code validity is over.';
comment on column settings.settled_after is
'An attempt read at this age (in seconds) or later is settled: no more changes are expected.';
comment on column settings.retention is 'How long Twilio lists an attempt, in seconds.';
comment on table revisit_ages is 'One row per age at which attempts are read again.';
comment on column revisit_ages.age is 'The age, in seconds.';
