-- The desk's tables. Times are microseconds since 1970 UTC; `*_at` is null for "not yet"; identifiers are 16-byte UUIDv7.
-- Nothing here is readable as a secret: passwords are argon2id, tokens are digests, `sealed` and `wrapped` are encrypted
-- under the key-encryption key, which is not in the database.

-- Moves with every change to anything that decides access, in the same transaction. Caches compare it.
create table revision (
    id    bigint primary key check (id = 1),
    value bigint not null
);
insert into revision (id, value) values (1, 0);

-- Data-encryption keys, wrapped by the key-encryption key.
create table data_keys (
    id         bytea primary key check (length(id) = 16),
    purpose    text collate "C" not null check (purpose in ('seal', 'mac')),
    kek_id     bytea not null check (length(kek_id) = 16),
    wrapped    bytea not null,
    created_at bigint not null
);

-- Keys that sign access tokens.
create table signing_keys (
    id         bytea primary key check (length(id) = 16),
    kid        text collate "C" not null unique,
    algorithm  text collate "C" not null,
    sealed     bytea not null,
    created_at bigint not null
);

-- Users (people) and service accounts (machines). One name space, so that a grant names one principal.
create table principals (
    id            bytea primary key check (length(id) = 16),
    kind          text collate "C" not null check (kind in ('user', 'service_account')),
    name          text collate "C" not null unique,
    role          text collate "C" not null check (role in ('member', 'auditor', 'admin')),
    password_hash text collate "C" check (password_hash is null or kind = 'user'),
    disabled_at   bigint,
    created_at    bigint not null
);

-- Secrets of service accounts at the token endpoint. Several may be valid at once while one replaces another.
create table client_secrets (
    id           bytea primary key check (length(id) = 16),
    principal_id bytea not null references principals (id) on delete cascade,
    digest       bytea not null unique check (length(digest) = 32),
    created_at   bigint not null,
    expires_at   bigint
);
create index client_secrets_by_principal on client_secrets (principal_id);

-- Long-lived credentials of principals. `imported` ones were chosen by somebody else and are kept as a keyed digest.
create table api_keys (
    id           bytea primary key check (length(id) = 16),
    principal_id bytea not null references principals (id) on delete cascade,
    label        text collate "C" not null,
    digest       bytea not null unique check (length(digest) = 32),
    imported     bigint not null check (imported in (0, 1)),
    created_at   bigint not null,
    expires_at   bigint,
    revoked_at   bigint
);
create index api_keys_by_principal on api_keys (principal_id);

-- Named sets of provider keys.
create table projects (
    id         bytea primary key check (length(id) = 16),
    name       text collate "C" not null unique,
    created_at bigint not null
);

-- Who may fetch a project's keys: `providers` is a JSON array of slugs, or null for all, present and future.
create table grants (
    principal_id bytea not null references principals (id) on delete cascade,
    project_id   bytea not null references projects (id) on delete restrict,
    providers    text collate "C" check (providers is null or jsonb_typeof(providers::jsonb) is not null),
    created_at   bigint not null,
    primary key (principal_id, project_id)
);
create index grants_by_project on grants (project_id);

-- The upstream keys. A row outlives its deletion, without a value, so that a version number never names two keys.
create table provider_keys (
    id           bytea primary key check (length(id) = 16),
    project_id   bytea not null references projects (id) on delete cascade,
    provider     text collate "C" not null,
    version      bigint not null check (version >= 1),
    created_at   bigint not null,
    updated_at   bigint not null,
    unique (project_id, provider)
);

create table provider_key_versions (
    id              bytea primary key check (length(id) = 16),
    provider_key_id bytea not null references provider_keys (id) on delete cascade,
    version         bigint not null check (version >= 1),
    sealed          bytea not null,
    expires_at      bigint,
    created_at      bigint not null,
    unique (provider_key_id, version)
);

-- What was last imported from the environment, recognised by a keyed digest: a restart with the same value changes nothing,
-- whatever has happened to the key since.
create table imports (
    source      text collate "C" primary key,
    mac         bytea not null check (length(mac) = 32),
    imported_at bigint not null
);

-- The book. Each process writes one stream, numbered without gaps; `mac` is where the chain's MAC goes.
create table audit_events (
    id             bytea not null check (length(id) = 16),
    stream         bytea not null check (length(stream) = 16),
    seq            bigint not null check (seq >= 1),
    at             bigint not null,
    action         text collate "C" not null,
    outcome        text collate "C" not null check (outcome in ('allowed', 'denied', 'failed')),
    actor          text collate "C" not null,
    principal_id   bytea,
    principal_kind text collate "C",
    client_id      text collate "C",
    credential     text collate "C",
    object         text collate "C",
    version        text collate "C",
    detail         text collate "C",
    source         text collate "C" not null,
    request_id     text collate "C" not null,
    reason         text collate "C",
    mac            bytea,
    primary key (stream, seq)
);
create index audit_events_by_time on audit_events (at, stream, seq);

-- What is written in the book stays as it was written. That nothing is replaced, the primary key says.
create function audit_events_are_not_changed() returns trigger language plpgsql as $$
begin
    raise exception 'audit events are never changed';
end
$$;
create trigger audit_events_are_not_changed before update or truncate on audit_events
    for each statement execute function audit_events_are_not_changed();
