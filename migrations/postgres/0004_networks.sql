-- From where a principal's credentials may be used: a JSON array of networks, or null for anywhere.
alter table principals add column networks text collate "C" check (networks is null or jsonb_typeof(networks::jsonb) is not null);
