-- Alarms: what is on its way to the webhooks, and what the rules remember of the book.

-- Messages to webhooks. A row is made in the transaction that makes what it tells, so that nothing is told that was not
-- done and nothing done stays untold. `state` is `waiting` until it is `delivered` or `given_up`; `kept` was never to be sent,
-- because no webhook was configured. `last_error` and `answer` hold no secret.
create table outbox (
    id              bytea primary key check (length(id) = 16),
    destination     text collate "C" not null check (destination in ('alarms', 'checkpoints')),
    rule            text collate "C",
    subject         text collate "C",
    body            text collate "C" not null check (jsonb_typeof(body::jsonb) is not null),
    state           text collate "C" not null check (state in ('waiting', 'delivered', 'given_up', 'kept')),
    attempts        bigint not null default 0,
    next_attempt_at bigint check (next_attempt_at is null or state = 'waiting'),
    finished_at     bigint,
    answer          text collate "C",
    last_error      text collate "C",
    created_at      bigint not null
);
create index outbox_by_turn on outbox (destination, next_attempt_at);
create index outbox_by_subject on outbox (rule, subject, created_at);
create index outbox_by_age on outbox (created_at);

-- How far the rules have read each stream of the book. What is in it already is the past: no alarms about that.
alter table audit_streams add column watched bigint not null default 0;
update audit_streams set watched = seq;
create index audit_streams_to_watch on audit_streams (stream) where watched < seq;

-- What was seen lately: for a `subject` (a source that tries users, a user who is tried) the different `item`s.
create table alarm_marks (
    kind    text collate "C" not null,
    subject text collate "C" not null,
    item    text collate "C" not null,
    at      bigint not null,
    primary key (kind, subject, item)
);
create index alarm_marks_by_age on alarm_marks (at);

-- From which networks a principal has come.
create table alarm_networks (
    principal_id bytea not null check (length(principal_id) = 16),
    network      text collate "C" not null,
    seen_at      bigint not null,
    primary key (principal_id, network)
);

-- How many keys a principal has read in an hour (counted from 1970).
create table alarm_reads (
    principal_id bytea not null check (length(principal_id) = 16),
    hour         bigint not null,
    reads        bigint not null,
    primary key (principal_id, hour)
);
