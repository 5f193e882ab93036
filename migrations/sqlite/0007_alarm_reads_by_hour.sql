-- What is counted now lies together: in the order of principals, the hour of each of them was on a page of its own, and all those
-- pages were written once a second.

create table alarm_reads_by_hour (
    principal_id blob not null check (length(principal_id) = 16),
    hour         integer not null,
    reads        integer not null,
    primary key (hour, principal_id)
) strict, without rowid;

insert into alarm_reads_by_hour select principal_id, hour, reads from alarm_reads order by hour, principal_id;
drop table alarm_reads;
alter table alarm_reads_by_hour rename to alarm_reads;

-- The past of one.
create index alarm_reads_by_principal on alarm_reads (principal_id, hour);
