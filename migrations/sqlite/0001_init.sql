-- The desk's tables. Times are microseconds since 1970 UTC; `*_at` is null for "not yet"; identifiers are 16-byte UUIDv7.
-- Nothing here is readable as a secret: passwords are argon2id, tokens are digests, `sealed` and `wrapped` are encrypted
-- under the key-encryption key, which is not in the database.

-- Moves with every change to anything that decides access, in the same transaction. Caches compare it.
create table revision (
    id    integer primary key check (id = 1),
    value integer not null
) strict;
insert into revision (id, value) values (1, 0);

-- Data-encryption keys, wrapped by the key-encryption key.
create table data_keys (
    id         blob primary key check (length(id) = 16),
    purpose    text not null check (purpose in ('seal', 'mac')),
    kek_id     blob not null check (length(kek_id) = 16),
    wrapped    blob not null,
    created_at integer not null
) strict;

-- Keys that sign access tokens.
create table signing_keys (
    id         blob primary key check (length(id) = 16),
    kid        text not null unique,
    algorithm  text not null,
    sealed     blob not null,
    created_at integer not null
) strict;

-- Users (people) and service accounts (machines). One name space, so that a grant names one principal.
create table principals (
    id            blob primary key check (length(id) = 16),
    kind          text not null check (kind in ('user', 'service_account')),
    name          text not null unique,
    role          text not null check (role in ('member', 'auditor', 'admin')),
    password_hash text check (password_hash is null or kind = 'user'),
    disabled_at   integer,
    created_at    integer not null
) strict;

-- Secrets of service accounts at the token endpoint. Several may be valid at once while one replaces another.
create table client_secrets (
    id           blob primary key check (length(id) = 16),
    principal_id blob not null references principals (id) on delete cascade,
    digest       blob not null unique check (length(digest) = 32),
    created_at   integer not null,
    expires_at   integer
) strict;
create index client_secrets_by_principal on client_secrets (principal_id);

-- Long-lived credentials of principals. `imported` ones were chosen by somebody else and are kept as a keyed digest.
create table api_keys (
    id           blob primary key check (length(id) = 16),
    principal_id blob not null references principals (id) on delete cascade,
    label        text not null,
    digest       blob not null unique check (length(digest) = 32),
    imported     integer not null check (imported in (0, 1)),
    created_at   integer not null,
    expires_at   integer,
    revoked_at   integer
) strict;
create index api_keys_by_principal on api_keys (principal_id);

-- Named sets of provider keys.
create table projects (
    id         blob primary key check (length(id) = 16),
    name       text not null unique,
    created_at integer not null
) strict;

-- Who may fetch a project's keys: `providers` is a JSON array of slugs, or null for all, present and future.
create table grants (
    principal_id blob not null references principals (id) on delete cascade,
    project_id   blob not null references projects (id) on delete restrict,
    providers    text check (providers is null or json_valid(providers)),
    created_at   integer not null,
    primary key (principal_id, project_id)
) strict, without rowid;
create index grants_by_project on grants (project_id);

-- The upstream keys. A row outlives its deletion, without a value, so that a version number never names two keys.
create table provider_keys (
    id           blob primary key check (length(id) = 16),
    project_id   blob not null references projects (id) on delete cascade,
    provider     text not null,
    version      integer not null check (version >= 1),
    created_at   integer not null,
    updated_at   integer not null,
    unique (project_id, provider)
) strict;

create table provider_key_versions (
    id              blob primary key check (length(id) = 16),
    provider_key_id blob not null references provider_keys (id) on delete cascade,
    version         integer not null check (version >= 1),
    sealed          blob not null,
    expires_at      integer,
    created_at      integer not null,
    unique (provider_key_id, version)
) strict;

-- What was last imported from the environment, recognised by a keyed digest: a restart with the same value changes nothing,
-- whatever has happened to the key since.
create table imports (
    source      text primary key,
    mac         blob not null check (length(mac) = 32),
    imported_at integer not null
) strict;

-- The book. Each process writes one stream, numbered without gaps; `mac` is where the chain's MAC goes.
create table audit_events (
    id             blob primary key check (length(id) = 16),
    stream         blob not null check (length(stream) = 16),
    seq            integer not null check (seq >= 1),
    at             integer not null,
    action         text not null,
    outcome        text not null check (outcome in ('allowed', 'denied', 'failed')),
    actor          text not null,
    principal_id   blob,
    principal_kind text,
    client_id      text,
    credential     text,
    object         text,
    version        text,
    detail         text,
    source         text not null,
    request_id     text not null,
    reason         text,
    mac            blob,
    unique (stream, seq)
) strict;
create index audit_events_by_time on audit_events (at, stream, seq);

-- What is written in the book stays as it was written.
create trigger audit_events_are_not_changed before update on audit_events
begin
    select raise(abort, 'audit events are never changed');
end;
create trigger audit_events_are_not_deleted before delete on audit_events
begin
    select raise(abort, 'audit events are never deleted');
end;
