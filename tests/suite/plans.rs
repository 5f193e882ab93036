//! On PostgreSQL no query reads a whole table that grows, but those that are there for that.
//!
//! What the program asks is what it has asked in all the other tests: the server has kept every statement (`pg_stat_statements`).
//! Each is planned anew, for whatever values it may get, in a database where reading a table from one end to the other is dear.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{engine::OwnDatabase, forger::Forger};

/// The tables that grow with those who ask, with time, or with attacks. The others have a row for each project, process or key.
const GROWING: [&str; 16] = [
    "principals",
    "client_secrets",
    "api_keys",
    "grants",
    "provider_keys",
    "provider_key_versions",
    "token_families",
    "refresh_tokens",
    "revoked_tokens",
    "throttles",
    "known_sources",
    "audit_events",
    "outbox",
    "alarm_marks",
    "alarm_networks",
    "alarm_reads",
];

/// Beginnings of statements that read a table as a whole, and why they may.
const WHOLE: [(&str, &str); 9] = [
    (
        "select a.name as principal, p.name as project",
        "a page of all grants in the order of names, for administrators",
    ),
    (
        "select k.id, p.name as project, k.provider",
        "a page of all provider keys in the order of names, for administrators",
    ),
    ("select $1 as found from principals limit", "the first row is enough"),
    (
        "select $1 as found where exists",
        "asked of a book before it has a chain; the first event that has a MAC is enough",
    ),
    ("select count(*) as n from principals", "another administrator, when one is taken away"),
    ("select count(*) as number from", "a backup counts what it will hold, and verification the whole book"),
    ("select stream, max(seq) as seq from audit_events", "an export takes the whole book along"),
    ("select min(v.created_at) as oldest", "the metrics tell of all provider keys"),
    ("select p.name, k.provider, v.expires_at", "all provider keys are looked at for those that expire"),
];

/// What the server has not kept: of which types the values are, where the statement itself does not say. Those of a list of
/// rows are said of the first.
const TYPES: [(&str, &[&str]); 12] = [
    ("select principal_id, column3 as hour", &["bytea", "bigint", "bigint"]),
    ("select principal_id, network, seen_at", &["bytea"]),
    ("select principal_id, max(principal_kind)", &["bytea", "bigint", "bigint", "bigint"]),
    ("select a.name as principal, p.name as project", &["bytea", "text", "text", "bigint"]),
    ("select id, name, created_at from projects", &["text", "bigint"]),
    ("from audit_events where ($1 is null", &["text", "text", "text", "bigint"]),
    ("from audit_events where (stream, seq) >", &["bytea", "bigint", "bigint"]),
    ("select k.*, p.name as principal", &["bytea", "bytea", "bigint"]),
    ("select k.id, p.name as project", &["bytea", "text", "text", "bigint"]),
    ("select * from principals where kind = $1 and (", &["text", "text", "bigint"]),
    ("select * from token_families", &["bytea", "bigint", "bytea", "bigint"]),
    ("update token_families set generation", &["bigint", "bigint", "text", "bigint", "bytea", "bigint"]),
];

/// Numbers from 1, as many rows as that.
const FILL: &str = "
    create function pg_temp.id(prefix int, n bigint) returns bytea language sql immutable as
        $$ select decode(lpad(to_hex(prefix), 8, '0') || lpad(to_hex(n), 24, '0'), 'hex') $$;
    create function pg_temp.digest(prefix int, n bigint) returns bytea language sql immutable as
        $$ select sha256(pg_temp.id(prefix, n)) $$;
    insert into principals (id, kind, name, role, created_at)
        select pg_temp.id(1, n), case n % 2 when 0 then 'user' else 'service_account' end, 'p' || n, 'member', n
        from generate_series(1, 5000) n;
    insert into projects (id, name, created_at) select pg_temp.id(2, n), 'project-' || n, n from generate_series(1, 200) n;
    insert into grants (principal_id, project_id, created_at)
        select pg_temp.id(1, n), pg_temp.id(2, n % 200 + 1), n from generate_series(1, 5000) n;
    insert into client_secrets (id, principal_id, digest, created_at)
        select pg_temp.id(3, n), pg_temp.id(1, n), pg_temp.digest(3, n), n from generate_series(1, 5000, 2) n;
    insert into api_keys (id, principal_id, label, digest, imported, created_at)
        select pg_temp.id(4, n), pg_temp.id(1, n), 'k', pg_temp.digest(4, n), 0, n from generate_series(1, 5000) n;
    insert into provider_keys (id, project_id, provider, version, created_at, updated_at)
        select pg_temp.id(5, n), pg_temp.id(2, n % 200 + 1), 'provider-' || n / 200, 2, n, n from generate_series(1, 4000) n;
    insert into provider_key_versions (id, provider_key_id, version, sealed, created_at)
        select pg_temp.id(6, n * 3 + v), pg_temp.id(5, n), v, decode(repeat('00', 100), 'hex'), n
        from generate_series(1, 4000) n, generate_series(1, 2) v;
    insert into token_families (id, principal_id, client_id, scope, generation, created_at, created_source, idle_expires_at, expires_at)
        select pg_temp.id(7, n), pg_temp.id(1, n % 5000 + 1), 'keydesk', 'llm-keys:read', 3, n, '10.0.0.1', n * 1000, n * 2000
        from generate_series(1, 10000) n;
    insert into refresh_tokens (digest, family_id, generation)
        select pg_temp.digest(7, n * 4 + g), pg_temp.id(7, n), g from generate_series(1, 10000) n, generate_series(1, 3) g;
    insert into revoked_tokens (jti, expires_at) select 'jti-' || n, n from generate_series(1, 5000) n;
    insert into throttles (key, failures, window_end, blocked_until)
        select pg_temp.digest(8, n), 1, n, 0 from generate_series(1, 5000) n;
    insert into known_sources (principal_id, source, seen_at)
        select pg_temp.id(1, n % 5000 + 1), pg_temp.digest(9, n), n from generate_series(1, 10000) n;
    insert into audit_events (id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, object, source, request_id, mac, heads)
        select pg_temp.id(10, s * 1000 + n), pg_temp.id(11, s), n, s * 1000000 + n,
        case n % 50 when 0 then 'token.issue' when 1 then 'alarm.raise' else 'llm_keys.read' end,
        case n % 40 when 0 then 'denied' else 'allowed' end, 'p' || (n % 5000), pg_temp.id(1, n % 5000 + 1), 'user', 'project:default',
        '10.0.0.1', 'req-' || (s * 1000 + n), pg_temp.digest(10, n), case n when 1 then '[]' end
        from generate_series(1, 100) s, generate_series(1, 500) n;
    insert into audit_streams (stream, seq, carried, anchored, watched)
        select pg_temp.id(11, s), 500, 500, 500, 500 from generate_series(1, 100) s;
    insert into outbox (id, destination, rule, subject, body, state, next_attempt_at, created_at)
        select pg_temp.id(12, n), 'alarms', 'test', 'user:p' || n, '{}',
        case when n % 100 = 0 then 'waiting' else 'delivered' end, case when n % 100 = 0 then n end, n from generate_series(1, 20000) n;
    insert into alarm_marks (kind, subject, item, at)
        select 'spraying', '10.0.' || n % 200, 'p' || n, n from generate_series(1, 5000) n;
    insert into alarm_networks (principal_id, network, seen_at)
        select pg_temp.id(1, n % 5000 + 1), '10.' || n || '.0.0/24', n from generate_series(1, 10000) n;
    insert into alarm_reads (principal_id, hour, reads)
        select pg_temp.id(1, n), h, 5 from generate_series(1, 2000) n, generate_series(500000, 500009) h;
    analyze";

/// Every statement that a desk has sent to the server and that has to find something: rows that are put in come from nowhere. What
/// forgers and administrators send is theirs.
const ASKED: &str = "create extension if not exists pg_stat_statements; \
    select distinct s.query from pg_stat_statements s join pg_roles r on r.oid = s.userid \
    where r.rolname = 'keydesk' and s.query ~* '^\\s*(with|select|update|delete)\\y' order by 1";

/// The tables that a plan reads from one end to the other.
fn read_whole(plan: &Value, found: &mut Vec<String>) {
    if plan["Node Type"] == "Seq Scan" {
        found.push(plan["Relation Name"].as_str().unwrap().to_owned());
    }
    for below in plan["Plans"].as_array().into_iter().flatten() {
        read_whole(below, found);
    }
}

/// The statement with one row where it has a list of rows, and with a constant where the server has put another place for it.
fn as_asked(statement: &str) -> String {
    let one_row = match statement.split_once("(values (") {
        Some((before, rows)) => {
            let (first, behind) = rows.split_once(')').unwrap();
            let behind = behind
                .split_once("))")
                .filter(|_| behind.starts_with(','))
                .map_or(&behind[1..], |(_, rest)| rest);
            format!("{before}(values ({first})){behind}")
        }
        None => statement.to_owned(),
    };
    one_row.replace("at / $4 as hour", "at / 3600000000 as hour")
}

/// How the server would go about a statement, whatever its values.
async fn plan(forger: &mut Forger, statement: &str) -> Value {
    let types = TYPES.iter().find(|(part, _)| statement.contains(part));
    let types = types.map_or(String::new(), |(_, types)| format!("({})", types.join(", ")));
    // Others begin alike, and say it themselves.
    if forger.attempt(&format!("prepare asked{types} as {statement}")).await.is_err()
        && let Err(error) = forger.attempt(&format!("prepare asked as {statement}")).await
    {
        panic!("of which types are its values? {error}: {statement}");
    }
    let places = "select coalesce(cardinality(parameter_types), 0)::bigint from pg_prepared_statements where name = 'asked'";
    let values = vec!["null"; usize::try_from(forger.number(places).await).unwrap()].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let lines = forger.texts(&format!("explain (format json) execute asked{values}")).await;
    forger.run("deallocate asked").await;
    serde_json::from_str::<Value>(&lines.concat()).unwrap()[0]["Plan"].take()
}

#[tokio::test]
#[ignore = "looks at what the other tests have asked: scripts/test runs it on PostgreSQL, after them"]
async fn every_query_finds_its_rows_by_an_index() {
    let own = OwnDatabase::with_tables().expect("a server");
    let mut forger = Forger::of(&own).await;
    forger.run(FILL).await;
    let asked: BTreeSet<_> = forger.texts(ASKED).await.iter().map(|statement| as_asked(statement)).collect();
    assert!(asked.len() > 60, "only {}: have the other tests run?", asked.len());
    forger.run("set plan_cache_mode = force_generic_plan").await;
    let mut wrong = Vec::new();
    for statement in &asked {
        let mut whole = Vec::new();
        read_whole(&plan(&mut forger, statement).await, &mut whole);
        whole.retain(|table| GROWING.contains(&table.as_str()));
        if !whole.is_empty() && !WHOLE.iter().any(|(beginning, _)| statement.starts_with(beginning)) {
            wrong.push(format!("{}: {statement}", whole.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "read as a whole:\n{}", wrong.join("\n"));
    for (beginning, why) in WHOLE {
        assert!(
            asked.iter().any(|statement| statement.starts_with(beginning)),
            "nobody asks {beginning} ({why})"
        );
    }
    println!("{} statements planned", asked.len());
}
