//! The commands about users, machines, keys and grants, and the book they leave.

use std::fs;

use serde_json::{Value, json};

use crate::support::{PASSWORD, Place, read};

/// The names under which a list shows its rows.
fn names(rows: &Value, field: &str) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

/// The names of an object's fields, in the order of the alphabet.
fn fields(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// A command that must fail with this line.
fn fails(place: &Place, arguments: &[&str], stdin: &str, line: &str) {
    let done = place.run_with(arguments, &[], stdin);
    assert_eq!(done.code, 1, "{arguments:?}: {done:?}");
    assert!(done.stderr.starts_with(&format!("keydesk: {line}")), "{arguments:?}: {done:?}");
}

#[test]
fn a_user_comes_and_goes() {
    let place = Place::with_desk();
    let add = ["user", "add", "Alice", "--role", "auditor", "--project", "default", "--password-stdin"];
    assert_eq!(place.must_with(&add, "alice has a long password\n"), "user alice is made\n");
    fails(
        &place,
        &add,
        "alice has a long password\n",
        "there is already a user or service account named alice",
    );
    let shown = place.json(&["user", "show", "alice"]);
    assert_eq!(
        (&shown["name"], &shown["role"], &shown["kind"]),
        (&json!("alice"), &json!("auditor"), &json!("user"))
    );
    assert_eq!(shown["grants"][0]["project"], "default");
    assert_eq!(shown["grants"][0]["providers"], Value::Null);
    assert_eq!(shown["api_keys"], json!([]));
    assert_eq!(names(&place.json(&["user", "list"]), "name"), ["admin", "alice"]);
    place.must_with(&["user", "passwd", "alice", "--password-stdin"], "and now another one");
    fails(
        &place,
        &["user", "passwd", "bob", "--password-stdin"],
        "and now another one",
        "there is no user bob",
    );
    place.must(&["user", "disable", "alice"]);
    assert!(place.must(&["user", "list"]).contains("disabled since"));
    assert!(place.json(&["user", "show", "alice"])["disabled_at"].as_str().unwrap().ends_with('Z'));
    place.must(&["user", "enable", "alice"]);
    assert_eq!(place.json(&["user", "show", "alice"])["disabled_at"], Value::Null);
    assert_eq!(place.must(&["user", "delete", "alice", "--json"]), "", "there is no data to show");
    fails(&place, &["user", "show", "alice"], "", "there is no user alice");
    fails(&place, &["user", "delete", "admin"], "", "admin is the last enabled admin");
}

#[test]
fn a_password_has_to_satisfy_the_policy() {
    let place = Place::with_desk();
    let add = ["user", "add", "bob", "--password-stdin"];
    fails(&place, &add, "", "the password has fewer than 15 bytes");
    fails(&place, &add, "fourteen bytes\n", "the password has fewer than 15 bytes");
    fails(&place, &add, "bobbobbobbobbobbob\n", "the password is a common word");
    fails(&place, &add, &"long ".repeat(300), "the password has more than 1024 bytes");
    fails(
        &place,
        &["user", "passwd", "admin", "--password-stdin"],
        "short",
        "the password has fewer than 15 bytes",
    );
    assert_eq!(names(&place.json(&["user", "list"]), "name"), ["admin"]);
    fs::write(place.path("keydesk.toml"), "[password]\nmin_length = 20\n").unwrap();
    fails(&place, &add, "nineteen bytes long", "the password has fewer than 20 bytes");
}

#[test]
fn a_service_account_comes_and_goes() {
    let place = Place::with_desk();
    let done = place.run(&["service-account", "add", "ci", "--json"]);
    assert_eq!(done.stderr, "ci may not fetch any keys yet; run: keydesk grant add ci default\n");
    let made: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(fields(&made), ["client_id", "client_secret", "created_at", "token", "type"]);
    assert_eq!((&made["client_id"], &made["type"]), (&json!("ci"), &json!("service_account")));
    assert!(made["client_secret"].as_str().unwrap().starts_with("kd_cs_"));
    assert!(made["token"].as_str().unwrap().starts_with("kd_ak_"));
    assert_eq!(names(&place.json(&["service-account", "list"]), "name"), ["ci"]);
    let rotated = place.json(&["service-account", "rotate-secret", "ci", "--overlap", "1h"]);
    assert_eq!(fields(&rotated), ["client_id", "client_secret"]);
    assert_ne!(rotated["client_secret"], made["client_secret"]);
    place.must(&["service-account", "disable", "ci"]);
    place.must(&["service-account", "enable", "ci"]);
    place.must(&["service-account", "delete", "ci"]);
    assert_eq!(place.json(&["service-account", "list"]), json!([]));
    fails(&place, &["service-account", "delete", "admin"], "", "there is no service account admin");
}

#[test]
fn credentials_go_to_a_new_private_file() {
    let place = Place::with_desk();
    let add = ["service-account", "add", "ci", "--project", "default", "--file", "sa.json"];
    let said = place.must(&add);
    assert_eq!(said, "service account ci is made; its credentials are in sa.json\n");
    assert_eq!(place.mode("sa.json"), 0o600);
    let text = read(&place.path("sa.json"));
    let made: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(fields(&made), ["client_id", "client_secret", "created_at", "token", "type"]);

    let add = ["service-account", "add", "another", "--file", "sa.json"];
    fails(&place, &add, "", "sa.json exists already");
    assert_eq!(read(&place.path("sa.json")), text);
    let add = ["service-account", "add", "another", "--project", "nowhere", "--file", "new.json"];
    fails(&place, &add, "", "there is no project nowhere");
    assert!(!place.path("new.json").exists(), "no empty file stays behind");
    assert_eq!(names(&place.json(&["service-account", "list"]), "name"), ["ci"], "nothing else was made");
}

#[test]
fn an_api_key_comes_and_goes() {
    let place = Place::with_desk();
    let made = place.json(&["api-key", "add", "admin", "--label", "laptop", "--expires", "90d"]);
    assert_eq!(fields(&made), ["api_key", "created_at", "expires_at", "id", "label", "principal"]);
    let (id, key) = (made["id"].as_str().unwrap(), made["api_key"].as_str().unwrap());
    assert!(key.starts_with("kd_ak_") && made["expires_at"].is_string());
    assert!(place.must(&["api-key", "add", "admin"]).contains("api_key        kd_ak_"));
    let list = place.json(&["api-key", "list", "admin"]);
    assert_eq!(
        fields(&list[0]),
        [
            "created_at",
            "expires_at",
            "id",
            "label",
            "last_used_at",
            "principal",
            "revoked_at",
            "scope",
            "sources"
        ]
    );
    assert_eq!(names(&list, "label"), ["laptop", ""]);
    place.must(&["api-key", "revoke", id]);
    assert!(place.must(&["api-key", "list"]).contains("revoked"));
    fails(&place, &["api-key", "revoke", id], "", "this API key is revoked already");
    fails(&place, &["api-key", "add", "nobody"], "", "there is no user or service account nobody");
    for shown in [
        place.must(&["api-key", "list"]),
        place.must(&["user", "show", "admin"]),
        place.must(&["audit", "list", "--json"]),
    ] {
        assert!(!shown.contains(key));
    }
}

#[test]
fn projects_and_grants_come_and_go() {
    let place = Place::with_desk();
    assert_eq!(place.json(&["project", "add", "search"])["name"], "search");
    fails(&place, &["project", "add", "search"], "", "there is already a project search");
    assert_eq!(names(&place.json(&["project", "list"]), "name"), ["default", "search"]);
    let granted =
        place.json(&["grant", "add", "admin", "search", "--provider", "openai", "--provider", "gemini"]);
    assert_eq!(
        granted,
        json!({"principal": "admin", "project": "search", "providers": ["gemini", "openai"]})
    );
    let grants = place.json(&["grant", "list", "--project", "search"]);
    assert_eq!(fields(&grants[0]), ["created_at", "principal", "project", "providers"]);
    assert_eq!(names(&place.json(&["grant", "list"]), "project"), ["default", "search"]);
    fails(&place, &["project", "delete", "search"], "", "project search still has keys or grants");
    place.must(&["grant", "remove", "admin", "search"]);
    fails(&place, &["grant", "remove", "admin", "search"], "", "admin has no grant on search");
    place.must(&["project", "delete", "search"]);
    fails(&place, &["grant", "add", "admin", "search"], "", "there is no project search");
}

#[test]
fn a_provider_key_comes_and_goes_unseen() {
    let place = Place::with_desk();
    let key = "sk-proj-CANARY0123456789";
    let set = place.must_with(&["key", "set", "OpenAI"], &format!("{key}\n"));
    assert_eq!(set, "openai in project default is at version 1\n");
    let again = place.must_with(&["key", "set", "openai", "--json"], "sk-proj-CANARY9876543210");
    assert_eq!(
        serde_json::from_str::<Value>(&again).unwrap(),
        json!({"project": "default", "provider": "openai", "version": 2})
    );
    let list = place.json(&["key", "list"]);
    assert_eq!(
        fields(&list[0]),
        ["created_at", "env", "expires_at", "project", "provider", "updated_at", "version"]
    );
    assert_eq!((&list[0]["env"], &list[0]["version"]), (&json!("OPENAI_API_KEY"), &json!(2)));
    fails(
        &place,
        &["key", "set", "openai"],
        "sk-short\n",
        "not a provider key: it is shorter than 16 characters",
    );
    fails(&place, &["key", "set", "openai"], "", "not a provider key: ");
    fails(&place, &["key", "set", "openai", "--project", "nowhere"], key, "there is no project nowhere");
    for shown in [place.must(&["key", "list"]), list.to_string(), place.must(&["audit", "list", "--json"])] {
        assert!(!shown.contains("CANARY"), "{shown}");
    }
    place.must(&["key", "delete", "openai"]);
    assert_eq!(place.json(&["key", "list"]), json!([]));
    fails(&place, &["key", "delete", "openai"], "", "project default has no key of openai");
}

#[test]
fn the_book_tells_who_did_what() {
    let place = Place::with_desk();
    place.must(&["project", "add", "search"]);
    place.run(&["project", "add", "search"]);
    let all = place.json(&["audit", "list"]);
    let newest = &all[0];
    assert_eq!(
        (&newest["action"], &newest["outcome"], &newest["reason"]),
        (&json!("project.create"), &json!("failed"), &json!("conflict"))
    );
    assert!(newest["actor"].as_str().unwrap().starts_with("os:"));
    assert_eq!((&newest["credential"], &newest["source"]), (&json!("operating_system"), &json!("local")));
    assert!(newest["request_id"].as_str().unwrap().starts_with("req_"));
    let count = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["audit", "list"].iter().chain(arguments).copied().collect();
        place.json(&arguments).as_array().unwrap().len()
    };
    assert_eq!(count(&["--limit", "1"]), 1);
    assert_eq!(count(&["--action", "project.create"]), 3, "default, search, and search again");
    assert_eq!(count(&["--action", "project.create", "--outcome", "failed"]), 1);
    assert_eq!(count(&["--principal", "nobody"]), 0);
    // Besides its own, the desk may have raised an alarm about this machine.
    let all = all.as_array().unwrap();
    let own = all.iter().filter(|event| event["actor"] == newest["actor"]).count();
    assert!(own > 3);
    assert_eq!(count(&["--principal", newest["actor"].as_str().unwrap()]), own);
    assert!(count(&["--since", "1h"]) >= all.len());
    assert_eq!(count(&["--since", "2100-01-01T00:00:00Z"]), 0);
    assert!(place.must(&["audit", "list"]).contains("project:search (conflict)"));
}

#[test]
fn commands_work_while_the_desk_is_served() {
    let place = Place::new();
    let server = place.serve(&[("KEYDESK_ADMIN_PASSWORD", PASSWORD)]);
    place.must_with(&["user", "add", "alice", "--password-stdin"], "alice has a long password\n");
    assert_eq!(names(&place.json(&["user", "list"]), "name"), ["admin", "alice"]);
    assert_eq!(server.stop(), 0);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let place = Place::with_desk();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = place.command(&["audit", "list"]).stdout(writer).output().unwrap();
    assert_eq!((done.status.code(), done.stderr.len()), (Some(0), 0));

    // But credentials that nobody saw are worth a word.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let done = place.command(&["api-key", "add", "admin"]).stdout(writer).output().unwrap();
    let line = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(
        line.starts_with("keydesk: the new credentials could not be shown")
            && line.contains("keydesk api-key revoke "),
        "{line}"
    );
}

#[test]
fn principals_are_bound_to_networks() {
    let place = Place::with_desk();
    let add = ["user", "add", "alice", "--from", "192.0.2.0/24", "--from", "2001:db8::1", "--password-stdin"];
    place.must_with(&add, "correct horse battery staple");
    let networks = |name: &str| place.json(&["user", "show", name])["networks"].clone();
    assert_eq!(networks("alice"), json!(["192.0.2.0/24", "2001:db8::1/128"]));
    assert_eq!(networks("admin"), json!(null));
    assert!(place.must(&["user", "show", "alice"]).contains("from     192.0.2.0/24, 2001:db8::1/128\n"));
    assert!(place.must(&["user", "show", "admin"]).contains("from     anywhere\n"));
    let said = place.must(&["user", "networks", "alice", "--from", "10.0.0.0/8"]);
    assert_eq!(said, "user alice may come from 10.0.0.0/8\n");
    assert_eq!(place.json(&["user", "networks", "alice", "--anywhere"])["networks"], json!(null));
    place.must(&["service-account", "add", "ci", "--from", "10.0.0.1"]);
    assert_eq!(place.json(&["service-account", "list"])[0]["networks"], json!(["10.0.0.1/32"]));
    let said = place.must(&["service-account", "networks", "ci", "--anywhere"]);
    assert_eq!(said, "service account ci may come from anywhere\n");
    for wrong in [
        &["user", "networks", "alice"][..],
        &["user", "networks", "alice", "--anywhere", "--from", "10.0.0.0/8"],
        &["user", "networks", "alice", "--from", "10.0.0.0/33"],
        &["user", "networks", "alice", "--from", ""],
        &["service-account", "add", "x", "--from", "everywhere"],
    ] {
        assert_eq!(place.run(wrong).code, 2, "{wrong:?}");
    }
    fails(&place, &["user", "networks", "ci", "--anywhere"], "", "there is no user ci");
}
