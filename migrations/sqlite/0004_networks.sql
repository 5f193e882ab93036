-- From where a principal's credentials may be used: a JSON array of networks, or null for anywhere.
alter table principals add column networks text check (networks is null or json_valid(networks));
