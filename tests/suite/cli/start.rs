//! `keydesk serve`: the first start, the next ones, and the ones that are refused.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, chown},
};

use crate::{
    engine,
    support::{PASSWORD, Place, Server, eventually, read},
};

const OPENAI: (&str, &str) = ("OPENAI_API_KEY", "sk-proj-CANARY0123456789");
const ANTHROPIC: (&str, &str) = ("ANTHROPIC_API_KEY", "sk-ant-CANARY0123456789");
const SERVICE: (&str, &str) = ("SERVICE_API_KEY", "svc-CANARY0123456789");
const ADMIN: (&str, &str) = ("KEYDESK_ADMIN_PASSWORD", PASSWORD);

#[test]
fn the_first_start_makes_everything_and_says_how_to_go_on() {
    let place = Place::new();
    let server = place.serve(&[OPENAI, SERVICE, ADMIN]);
    let url = server.url();
    for said in [
        "project default, user admin",
        "OPENAI_API_KEY: provider key default/openai version 1",
        "SERVICE_API_KEY: API key of service account default",
        &format!("{url}/docs"),
        &format!("curl -sS '{url}/token'"),
        "--data-urlencode 'username=admin'",
        &format!("curl -sS '{url}/llm-keys' -H \"Authorization: Bearer $TOKEN\""),
    ] {
        assert!(server.banner.contains(said), "{said:?} is not in:\n{}", server.banner);
    }
    assert!(!server.banner.contains("CANARY") && !server.banner.contains(PASSWORD));
    assert_eq!(place.mode("keydesk-data"), 0o700);
    let files = ["kek", "keydesk.db", "keydesk.db-wal", "keydesk.db-shm", "keydesk.db.lock"];
    let here = if engine::server().is_some() { 1 } else { files.len() };
    for file in &files[..here] {
        assert_eq!(place.mode(&format!("keydesk-data/{file}")), 0o600, "{file}");
    }
    assert!(!place.path("keydesk-data/admin-password").exists(), "the operator knows it");
    assert_eq!(server.stop(), 0);
    assert!(!place.path("keydesk-data/keydesk.db-wal").exists(), "closed in good order");

    let actions: Vec<_> =
        place.json(&["audit", "list"]).as_array().unwrap().iter().map(|e| e["action"].clone()).collect();
    assert_eq!(actions[0], "server.stop");
    for action in [
        "desk.initialise",
        "user.create",
        "signing_key.create",
        "provider_key.set",
        "api_key.issue",
        "server.start",
    ] {
        assert!(actions.iter().any(|seen| seen == action), "{action} is not in the book");
    }
    assert!(!read(&place.path("log")).contains("CANARY"));
}

#[test]
fn without_a_terminal_the_generated_password_is_left_in_a_private_file() {
    let place = Place::new();
    let server = place.serve(&[]);
    let file = "keydesk-data/admin-password";
    assert_eq!(place.mode(file), 0o600);
    let password = read(&place.path(file));
    let groups: Vec<_> = password.trim_end().split('-').map(str::len).collect();
    assert_eq!(groups, [5, 5, 5, 5]);
    assert!(server.banner.contains("admin-password") && !server.banner.contains(password.trim_end()));
    assert_eq!(server.stop(), 0);
    assert!(!read(&place.path("log")).contains(password.trim_end()));
}

#[test]
fn another_start_changes_only_what_the_environment_changed() {
    let place = Place::new();
    let lists = || {
        let lists = [
            &["user", "list"][..],
            &["service-account", "list"],
            &["api-key", "list"],
            &["grant", "list"],
            &["key", "list"],
        ];
        lists.map(|arguments| place.json(arguments))
    };
    let kek = || fs::read(place.path("keydesk-data/kek")).unwrap();
    assert_eq!(place.serve(&[OPENAI, ANTHROPIC, SERVICE, ADMIN]).stop(), 0);
    let (made, key) = (lists(), kek());

    let server = place.serve(&[
        OPENAI,
        ANTHROPIC,
        SERVICE,
        ("KEYDESK_ADMIN_PASSWORD", "another one, which is ignored"),
    ]);
    assert!(!server.banner.contains("Imported") && !server.banner.contains("new desk"), "{}", server.banner);
    assert_eq!(server.stop(), 0);
    assert_eq!(lists(), made);

    let server = place.serve(&[("OPENAI_API_KEY", "sk-proj-CANARY9876543210"), ANTHROPIC, SERVICE]);
    assert!(
        server.banner.contains("OPENAI_API_KEY: provider key default/openai version 2"),
        "{}",
        server.banner
    );
    assert_eq!(server.stop(), 0);
    let versions = |keys: &serde_json::Value| -> Vec<_> {
        let version = |row: &serde_json::Value| (row["provider"].to_string(), row["version"].to_string());
        keys.as_array().unwrap().iter().map(version).collect()
    };
    let now = lists();
    assert_eq!(now[..4], made[..4]);
    assert_eq!(versions(&now[4]), [("\"anthropic\"".into(), "1".into()), ("\"openai\"".into(), "2".into())]);
    assert_eq!(kek(), key);
}

#[test]
fn of_two_servers_on_one_desk_the_second_says_why_it_stops() {
    if !engine::only_on_sqlite("any number of servers work on one database there") {
        return;
    }
    let place = Place::new();
    let server = place.serve(&[ADMIN]);
    let done = place.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(
        done.stderr.starts_with("keydesk: another keydesk serves ./keydesk-data/keydesk.db already"),
        "{done:?}"
    );
    assert_eq!(server.stop(), 0);
    assert_eq!(place.serve(&[]).stop(), 0, "the lock goes with the server");
}

#[test]
fn a_port_in_use_is_said_before_a_desk_is_made() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = place.run_with(&["serve", "--listen", &address], &[ADMIN], "");
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(
        done.stderr.starts_with(&format!("keydesk: another program listens on {address} already")),
        "{done:?}"
    );
    assert!(!place.path("keydesk-data/keydesk.db").exists() && !place.path("keydesk-data/kek").exists());
    let variables = [ADMIN, ("KEYDESK_METRICS__LISTEN", address.as_str())];
    let done = place.run_with(&["serve", "--listen", "127.0.0.1:0"], &variables, "");
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("choose another address with metrics.listen"), "{done:?}");
    assert!(!place.path("keydesk-data/keydesk.db").exists());
}

#[test]
fn what_cannot_be_right_is_refused_and_nothing_is_made() {
    for (variables, line) in [
        (
            &[("OPENAI_API_KEY", "sk-xxxxxxxxxxxxxxxxxxxx")][..],
            "keydesk: OPENAI_API_KEY is not imported: it is a placeholder",
        ),
        (&[("GOOGLE_API_KEY", "short")], "keydesk: GOOGLE_API_KEY is not imported: it is shorter than 16"),
        (
            &[("SERVICE_API_KEY", "changeme-changeme")],
            "keydesk: SERVICE_API_KEY is not imported: it is a placeholder",
        ),
        (
            &[("KEYDESK_ADMIN_PASSWORD", "hunter2")],
            "keydesk: KEYDESK_ADMIN_PASSWORD cannot be used: the password has fewer",
        ),
        (
            &[("KEYDESK_ADMIN_PASSWORD", "passwordpassword")],
            "keydesk: KEYDESK_ADMIN_PASSWORD cannot be used: the password is a common",
        ),
        (
            &[("KEYDESK_ADMIN_PASSWORD_FILE", "/nowhere")],
            "keydesk: KEYDESK_ADMIN_PASSWORD_FILE names a file that cannot be used",
        ),
    ] {
        let place = Place::new();
        let done = place.run_with(&["serve", "--listen", "127.0.0.1:0"], variables, "");
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
        assert!(done.stderr.starts_with(line) && done.stderr.lines().count() == 1, "{done:?}");
        assert!(place.names().is_empty(), "{:?}", place.names());
    }
}

#[test]
fn a_key_encryption_key_that_is_not_right_is_refused_and_the_database_stays_as_it_is() {
    let place = Place::new();
    assert_eq!(place.serve(&[OPENAI, ADMIN]).stop(), 0);
    let kek = place.path("keydesk-data/kek");
    let (key, database) = (fs::read(&kek).unwrap(), place.database());
    let refused = |why: &str| {
        for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["user", "list"]] {
            let done = place.run_with(arguments, &[("OPENAI_API_KEY", "sk-proj-CANARY9876543210")], "");
            assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{why}: {done:?}");
            assert!(
                done.stderr.starts_with("keydesk: the key-encryption key ./keydesk-data/kek "),
                "{done:?}"
            );
            assert!(done.stderr.contains(why) && done.stderr.lines().count() == 1, "{done:?}");
            assert!(place.database() == database, "{why}: the database was changed");
        }
    };
    fs::write(&kek, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n").unwrap();
    refused("is not the one that the database");
    fs::write(&kek, "not a key").unwrap();
    refused("is of no use");
    fs::write(&kek, &key).unwrap();
    place.set_mode("keydesk-data/kek", 0o640);
    refused("can be read by others");
    fs::remove_file(&kek).unwrap();
    refused("is missing");
    fs::write(&kek, &key).unwrap();
    place.set_mode("keydesk-data/kek", 0o440);
    let metadata = fs::metadata(&kek).unwrap();
    let is_roots = (metadata.uid(), metadata.gid()) == (0, 0);
    if is_roots {
        chown(&kek, Some(65_534), None).unwrap();
    }
    refused("can be read by others (mode 0440)");
    if is_roots {
        chown(&kek, Some(0), None).unwrap();
        assert_eq!(place.serve(&[OPENAI]).stop(), 0, "root's own: a credential from systemd");
    }
    place.set_mode("keydesk-data/kek", 0o400);
    assert_eq!(place.serve(&[OPENAI]).stop(), 0, "the right one still opens it");
}

#[test]
fn a_standard_output_that_nobody_reads_does_not_stop_the_server() {
    for blocked in [true, false] {
        let place = Place::new();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.envs([ADMIN]).stderr(File::create(place.path("log")).unwrap());
        let reader = if blocked {
            // What a pipe holds on Linux: the next byte waits until somebody reads.
            writer.write_all(&vec![0; 65536]).unwrap();
            Some(reader)
        } else {
            drop(reader);
            None
        };
        let server = Server::of(command.stdout(writer).spawn().unwrap());
        eventually("the server serves", || read(&place.path("log")).contains("serving"));
        assert_eq!(server.stop(), 0, "blocked: {blocked}");
        drop(reader);
    }
}

#[test]
fn the_log_is_json_if_that_is_wanted() {
    let place = Place::new();
    assert_eq!(place.serve(&[ADMIN, ("KEYDESK_LOG__FORMAT", "json"), ("RUST_LOG", "trace")]).stop(), 0);
    let log = read(&place.path("log"));
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"] == "serving"), "{log}");
    assert!(
        lines.iter().any(|line| line["level"] == "TRACE" || line["level"] == "DEBUG"),
        "RUST_LOG refines"
    );
}
