create or replace table settings (
    verification_fee decimal(18, 6),
    fee_currency varchar,
    timezone varchar,
    pumping_verifications bigint,
    pumping_destinations bigint,
    pumping_rate double,
    pumping_z_score double,
    code_validity interval,
    settled_after interval,
    retention interval,
    revisit_after interval[]
);

comment on table settings is 'One row: what the views take from the configuration.';
comment on column settings.verification_fee is
'What Twilio charges per successful verification beyond the channel price.';
comment on column settings.fee_currency is 'Currency of verification_fee, upper case.';
comment on column settings.timezone is 'IANA zone in which created_date is a day.';
comment on column settings.pumping_verifications is
'A suspect has at least so many verifications a day.';
comment on column settings.pumping_destinations is '… and at least so many destinations.';
comment on column settings.pumping_rate is '… and a success rate below this part of the baseline.';
comment on column settings.pumping_z_score is
'… and is so many standard deviations below it.';
comment on column settings.code_validity is
'Age from which an attempt is mature: read when its code could no longer be typed.';
comment on column settings.settled_after is
'Age from which an attempt is settled: read when nothing about it is expected to change.';
comment on column settings.retention is 'How long Twilio lists an attempt.';
comment on column settings.revisit_after is 'Ages at which attempts are read again.';
