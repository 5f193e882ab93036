-- How far subjects have used their quotas, where several servers share a database. One alone counts in memory, so that in SQLite
-- nothing is ever written here.
create table rate_limits (
    name    text not null,
    subject blob not null check (length(subject) = 16),
    until   integer not null,
    granted integer not null,
    primary key (name, subject)
) strict, without rowid;
create index rate_limits_by_end on rate_limits (until);
