-- What is counted now lies together, as in SQLite.
alter table alarm_reads drop constraint alarm_reads_pkey;
alter table alarm_reads add primary key (hour, principal_id);

-- The past of one.
create index alarm_reads_by_principal on alarm_reads (principal_id, hour);
