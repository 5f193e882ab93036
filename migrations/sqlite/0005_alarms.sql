-- Alarms: what is on its way to the webhooks, and what the rules remember of the book.

-- Messages to webhooks. A row is made in the transaction that makes what it tells, so that nothing is told that was not
-- done and nothing done stays untold. `state` is `waiting` until it is `delivered` or `given_up`; `kept` was never to be sent,
-- because no webhook was configured. `last_error` and `answer` hold no secret.
create table outbox (
    id              blob primary key check (length(id) = 16),
    destination     text not null check (destination in ('alarms', 'checkpoints')),
    rule            text,
    subject         text,
    body            text not null check (json_valid(body)),
    state           text not null check (state in ('waiting', 'delivered', 'given_up', 'kept')),
    attempts        integer not null default 0,
    next_attempt_at integer check (next_attempt_at is null or state = 'waiting'),
    finished_at     integer,
    answer          text,
    last_error      text,
    created_at      integer not null
) strict;
create index outbox_by_turn on outbox (destination, next_attempt_at);
create index outbox_by_subject on outbox (rule, subject, created_at);
create index outbox_by_age on outbox (created_at);

-- How far the rules have read each stream of the book. What is in it already is the past: no alarms about that.
alter table audit_streams add column watched integer not null default 0;
update audit_streams set watched = seq;
create index audit_streams_to_watch on audit_streams (stream) where watched < seq;

-- What was seen lately: for a `subject` (a source that tries users, a user who is tried) the different `item`s.
create table alarm_marks (
    kind    text not null,
    subject text not null,
    item    text not null,
    at      integer not null,
    primary key (kind, subject, item)
) strict, without rowid;
create index alarm_marks_by_age on alarm_marks (at);

-- From which networks a principal has come.
create table alarm_networks (
    principal_id blob not null check (length(principal_id) = 16),
    network      text not null,
    seen_at      integer not null,
    primary key (principal_id, network)
) strict, without rowid;

-- How many keys a principal has read in an hour (counted from 1970).
create table alarm_reads (
    principal_id blob not null check (length(principal_id) = 16),
    hour         integer not null,
    reads        integer not null,
    primary key (principal_id, hour)
) strict, without rowid;
