-- How far subjects have used their quotas, where several servers share a database: up to `until` their requests are spread at the
-- even pace. `granted` is how many requests the last process that asked was given at once. It is no loss if a crash takes it all.
create unlogged table rate_limits (
    name    text collate "C" not null,
    subject bytea not null check (length(subject) = 16),
    until   bigint not null,
    granted bigint not null,
    primary key (name, subject)
);
create index rate_limits_by_end on rate_limits (until);
