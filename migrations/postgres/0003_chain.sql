-- The chain. Each event of the book carries a MAC over itself and the MAC of its predecessor in the stream, under a key
-- derived from a data key: whoever has the database, but not the key-encryption key, cannot change the book unnoticed.

-- The first event of a stream names the last events of other streams, as JSON, so that a whole stream cannot vanish.
alter table audit_events add column heads text collate "C";
create index audit_events_with_heads on audit_events (stream, seq) where heads is not null;

-- The last event of each stream. `mac` is null for streams that are older than the chain; `seal` is a MAC over the row's
-- `stream`, `seq` and `mac`. `carried`: up to where another stream has named it. `anchored`: up to where a checkpoint has.
create table audit_streams (
    stream   bytea primary key check (length(stream) = 16),
    seq      bigint not null check (seq >= 1),
    mac      bytea check (length(mac) = 32),
    seal     bytea check (length(seal) = 32),
    carried  bigint not null default 0,
    anchored bigint not null default 0
);
create index audit_streams_to_carry on audit_streams (stream) where carried < seq;
create index audit_streams_to_anchor on audit_streams (stream) where anchored < seq;

-- What was written before the chain cannot be protected any more; the first event of the chain says how much it was.
insert into audit_streams (stream, seq, anchored)
    select stream, max(seq), max(seq) from audit_events group by stream;

-- Signed statements of how far the book had come. A row stays until it stands in the checkpoint file and has a successor.
create table audit_checkpoints (
    seq      bigint primary key check (seq >= 1),
    at       bigint not null,
    events   bigint not null,
    jws      text collate "C" not null,
    filed_at bigint
);

-- Signed statements of what was removed because it was old enough: the beginning of a stream, up to and with `seq`.
create table audit_prunings (
    stream bytea primary key check (length(stream) = 16),
    seq    bigint not null check (seq >= 1),
    jws    text collate "C" not null
);

-- An event is deleted only after the record that says so; whether that record is genuine, `keydesk audit verify` tells.
create function audit_events_are_not_deleted() returns trigger language plpgsql as $$
begin
    if not exists (select 1 from audit_prunings where stream = old.stream and seq >= old.seq) then
        raise exception 'audit events are never deleted';
    end if;
    return old;
end
$$;
create trigger audit_events_are_not_deleted before delete on audit_events
    for each row execute function audit_events_are_not_deleted();
