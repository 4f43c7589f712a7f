create or replace view sync_history as
select
    r.run_id,
    r.command,
    r.started_at,
    r.finished_at,
    (epoch_us(r.finished_at) - epoch_us(r.started_at)) / 1e6 as seconds,
    coalesce(r.outcome, 'running') as outcome,
    r.error,
    r.windows,
    r.requests,
    r.retries,
    r.throttled,
    r.attempts_read,
    r.attempts_new,
    r.rejected
from twilio_verify.sync_runs as r;

comment on view sync_history is 'One row per run: what it did and how it ended.';
comment on column sync_history.run_id is 'ID of the run.';
comment on column sync_history.command is 'What was run: sync, backfill, fetch or reconcile.';
comment on column sync_history.started_at is 'When it began (UTC).';
comment on column sync_history.finished_at is
'When it finished loading or failed (UTC); null while it runs or if it was killed.';
comment on column sync_history.seconds is
'Seconds between started_at and finished_at. Publishing comes later.';
comment on column sync_history.outcome is
'done, failed, interrupted (by Ctrl-C or SIGTERM), killed (noticed by the next run) or running.';
comment on column sync_history.error is 'Error message if it failed.';
comment on column sync_history.windows is 'Slices of created time that it read completely.';
comment on column sync_history.requests is 'Requests that it sent, retries included.';
comment on column sync_history.retries is 'Requests that were sent again.';
comment on column sync_history.throttled is 'Answers with status 429 (too many requests).';
comment on column sync_history.attempts_read is 'Attempts that it read.';
comment on column sync_history.attempts_new is 'Of these, how many were not stored yet.';
comment on column sync_history.rejected is 'Rows without a usable sid or date_created.';
