-- Refresh tokens, revocation, the life of signing keys, throttling, and what people and machines need of their credentials.

-- A login. Of its refresh tokens one is valid at a time: the one of the current generation. The tokens themselves are
-- derived from a sealed key and never stored.
create table token_families (
    id              bytea primary key check (length(id) = 16),
    principal_id    bytea not null references principals (id) on delete cascade,
    client_id       text collate "C" not null,
    scope           text collate "C" not null,
    generation      bigint not null check (generation >= 1),
    rotated_at      bigint,
    rotated_source  text collate "C",
    created_at      bigint not null,
    created_source  text collate "C" not null,
    idle_expires_at bigint not null,
    expires_at      bigint not null,
    revoked_at      bigint
);
create index token_families_by_principal on token_families (principal_id);
create index token_families_by_end on token_families (idle_expires_at);

-- Every generation, the spent ones too: a spent one that comes back is an attack.
create table refresh_tokens (
    digest     bytea primary key check (length(digest) = 32),
    family_id  bytea not null references token_families (id) on delete cascade,
    generation bigint not null
);
create index refresh_tokens_by_family on refresh_tokens (family_id);

-- Access tokens revoked before their time, until that time.
create table revoked_tokens (
    jti        text collate "C" primary key,
    expires_at bigint not null
);
create index revoked_tokens_by_end on revoked_tokens (expires_at);

-- A signing key is published from the start, signs from `activates_at`, and is refused from `compromised_at`.
alter table signing_keys add column activates_at bigint not null default 0;
alter table signing_keys add column compromised_at bigint;

-- `version` is what `If-Match` compares. A one-time password ends at `password_expires_at` and opens nothing but its own
-- change. `grant_types` is a JSON array, or null for the usual ones of the kind.
alter table principals add column version bigint not null default 1;
alter table principals add column password_expires_at bigint;
alter table principals add column grant_types text collate "C" check (grant_types is null or jsonb_typeof(grant_types::jsonb) is not null);

-- `scope` is what the key may do at most; `sources` is a JSON array of networks, or null for anywhere.
alter table api_keys add column scope text collate "C" not null default 'llm-keys:read';
alter table api_keys add column sources text collate "C" check (sources is null or jsonb_typeof(sources::jsonb) is not null);
alter table api_keys add column last_used_at bigint;

-- Failed attempts, by keyed digest of who and from where: nothing here says whether a name exists.
create table throttles (
    key           bytea primary key check (length(key) = 32),
    failures      bigint not null,
    window_end    bigint not null,
    blocked_until bigint not null
);
create index throttles_by_end on throttles (window_end);

-- From where a user has logged in before, as keyed digests.
create table known_sources (
    principal_id bytea not null references principals (id) on delete cascade,
    source       bytea not null check (length(source) = 32),
    seen_at      bigint not null,
    primary key (principal_id, source)
);
