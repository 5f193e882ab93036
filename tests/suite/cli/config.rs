//! Configuration, as the program reads it.

use std::fs;

use crate::support::Place;

/// The value and source of a key in the output of `config check`.
fn value(place: &Place, variables: &[(&str, &str)], arguments: &[&str], key: &str) -> (String, String) {
    let arguments: Vec<&str> = ["config", "check", "--json"].iter().chain(arguments).copied().collect();
    let done = place.run_with(&arguments, variables, "");
    assert_eq!(done.code, 0, "{done:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&done.stdout).unwrap();
    let row = rows.iter().find(|row| row["key"] == key).unwrap();
    (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
}

#[test]
fn config_check_tells_every_value_and_its_source() {
    let place = Place::new();
    let data_dir =
        |variables: &[(&str, &str)], arguments: &[&str]| value(&place, variables, arguments, "data_dir");
    let pair = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(data_dir(&[], &[]), pair("./keydesk-data", "default"));
    fs::write(place.path("keydesk.toml"), "data_dir = 'a'\n").unwrap();
    assert_eq!(data_dir(&[], &[]), pair("a", "keydesk.toml"));
    fs::write(place.path("other.toml"), "data_dir = 'b'\n").unwrap();
    assert_eq!(data_dir(&[("KEYDESK_CONFIG", "other.toml")], &[]), pair("b", "other.toml"));
    assert_eq!(
        data_dir(&[("KEYDESK_CONFIG", "/nowhere")], &["--config", "other.toml"]),
        pair("b", "other.toml")
    );
    assert_eq!(data_dir(&[("KEYDESK_DATA_DIR", "c")], &[]), pair("c", "KEYDESK_DATA_DIR"));
    assert_eq!(data_dir(&[("KEYDESK_DATA_DIR", "c")], &["--data-dir", "d"]), pair("d", "--data-dir"));
    assert_eq!(value(&place, &[("KEYDESK_DATA_DIR", "c")], &[], "kek.file"), pair("c/kek", "default"));
    let table = place.must(&["config", "check"]);
    assert_eq!(table.lines().count(), 1 + keydesk::config::KEYS.len());
    assert!(!place.path("a").exists(), "a check makes nothing");
}

#[test]
fn a_configuration_that_is_wrong_stops_every_command_with_one_line() {
    for (file, variables, line) in [
        (
            "[server]\nport = 1\n",
            &[][..],
            "keydesk: keydesk.toml: there is no key server.port; the nearest is server.listen",
        ),
        ("[", &[], "keydesk: keydesk.toml, line 1: "),
        (
            "",
            &[("KEYDESK_DATADIR", "x")],
            "keydesk: there is no setting KEYDESK_DATADIR; the nearest is KEYDESK_DATA_DIR",
        ),
        (
            "",
            &[("KEYDESK_SERVER__LISTEN", "0.0.0.0:1")],
            "keydesk: KEYDESK_SERVER__LISTEN: server.listen can be reached from other machines",
        ),
        (
            "",
            &[("DATABASE_URL", "postgres://u:CANARY@h:CANARY/d")],
            "keydesk: DATABASE_URL: database.url is not a PostgreSQL URL",
        ),
        (
            "",
            // Where nobody listens.
            &[("DATABASE_URL", "postgres://u:CANARY@127.0.0.1:1/d")],
            "keydesk: the database d at 127.0.0.1:1 cannot be used: ",
        ),
        ("", &[("RUST_LOG", "[[CANARY")], "keydesk: RUST_LOG is not a log filter"),
    ] {
        let place = Place::new();
        fs::write(place.path("keydesk.toml"), file).unwrap();
        for arguments in [&["serve"][..], &["user", "list"]] {
            let done = place.run_with(arguments, variables, "");
            assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
            assert!(done.stderr.starts_with(line) && done.stderr.lines().count() == 1, "{done:?}");
            assert!(!done.stderr.contains("CANARY"), "{done:?}");
        }
        assert_eq!(place.names(), ["keydesk.toml"], "nothing is made");
    }
}

#[test]
fn config_check_also_looks_at_the_secrets_and_shows_none() {
    let place = Place::new();
    let check = |variables: &[(&str, &str)]| place.run_with(&["config", "check"], variables, "");
    let done =
        check(&[("OPENAI_API_KEY", "sk-CANARY0123456789abcdef"), ("KEYDESK_ADMIN_PASSWORD", "CANARY")]);
    assert_eq!((done.code, done.stdout.contains("CANARY")), (0, false));
    let done = check(&[("OPENAI_API_KEY", "your-api-key")]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.starts_with("keydesk: OPENAI_API_KEY is not imported: it is a placeholder"),
        "{done:?}"
    );
    let done = check(&[("OPENAI_API_KEY", "CANARY"), ("OPENAI_API_KEY_FILE", "CANARY")]);
    assert!(
        done.stderr.starts_with("keydesk: OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set"),
        "{done:?}"
    );
    assert!(!done.stderr.contains("CANARY"));
}
