-- Refresh tokens, revocation, the life of signing keys, throttling, and what people and machines need of their credentials.

-- A login. Of its refresh tokens one is valid at a time: the one of the current generation. The tokens themselves are
-- derived from a sealed key and never stored.
create table token_families (
    id              blob primary key check (length(id) = 16),
    principal_id    blob not null references principals (id) on delete cascade,
    client_id       text not null,
    scope           text not null,
    generation      integer not null check (generation >= 1),
    rotated_at      integer,
    rotated_source  text,
    created_at      integer not null,
    created_source  text not null,
    idle_expires_at integer not null,
    expires_at      integer not null,
    revoked_at      integer
) strict;
create index token_families_by_principal on token_families (principal_id);
create index token_families_by_end on token_families (idle_expires_at);

-- Every generation, the spent ones too: a spent one that comes back is an attack.
create table refresh_tokens (
    digest     blob primary key check (length(digest) = 32),
    family_id  blob not null references token_families (id) on delete cascade,
    generation integer not null
) strict, without rowid;
create index refresh_tokens_by_family on refresh_tokens (family_id);

-- Access tokens revoked before their time, until that time.
create table revoked_tokens (
    jti        text primary key,
    expires_at integer not null
) strict, without rowid;
create index revoked_tokens_by_end on revoked_tokens (expires_at);

-- A signing key is published from the start, signs from `activates_at`, and is refused from `compromised_at`.
alter table signing_keys add column activates_at integer not null default 0;
alter table signing_keys add column compromised_at integer;

-- `version` is what `If-Match` compares. A one-time password ends at `password_expires_at` and opens nothing but its own
-- change. `grant_types` is a JSON array, or null for the usual ones of the kind.
alter table principals add column version integer not null default 1;
alter table principals add column password_expires_at integer;
alter table principals add column grant_types text check (grant_types is null or json_valid(grant_types));

-- `scope` is what the key may do at most; `sources` is a JSON array of networks, or null for anywhere.
alter table api_keys add column scope text not null default 'llm-keys:read';
alter table api_keys add column sources text check (sources is null or json_valid(sources));
alter table api_keys add column last_used_at integer;

-- Failed attempts, by keyed digest of who and from where: nothing here says whether a name exists.
create table throttles (
    key           blob primary key check (length(key) = 32),
    failures      integer not null,
    window_end    integer not null,
    blocked_until integer not null
) strict, without rowid;
create index throttles_by_end on throttles (window_end);

-- From where a user has logged in before, as keyed digests.
create table known_sources (
    principal_id blob not null references principals (id) on delete cascade,
    source       blob not null check (length(source) = 32),
    seen_at      integer not null,
    primary key (principal_id, source)
) strict, without rowid;
