//! What may be typed, what becomes of it, and what is said about the rest.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::Path};

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect()
}

/// What the configuration is with this file and these variables, or the error.
fn load_with(file: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("k.toml");
    std::fs::write(&path, file).unwrap();
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    let place = path.display().to_string();
    load(&flags, &environment(variables)).map_err(|error| error.to_string().replace(&place, "k.toml"))
}

fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    load_with(file, variables).unwrap_err()
}

#[test]
fn the_defaults_are_what_the_table_says() {
    let config = load_with("", &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("./keydesk-data"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.public_url, None);
    assert_eq!(config.database.to_string(), "./keydesk-data/keydesk.db");
    assert_eq!(config.kek.current, Path::new("./keydesk-data/kek"));
    assert_eq!(config.token.algorithm, Algorithm::EdDsa);
    assert_eq!(config.token.access_ttl, Duration::from_mins(10));
    assert_eq!(config.token.audience, "keydesk");
    assert!(config.password_enabled);
    assert_eq!(config.password_policy.min_length, 15);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.values.len(), KEYS.len(), "every key has a value");
    for (value, key) in config.values.iter().zip(KEYS) {
        assert_eq!(value.key.name, key.name);
        assert_eq!(value.source, Source::Default, "{}", key.name);
        if let keys::Default::Text(text) = key.default {
            assert_eq!(value.text, text);
        }
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "data_dir = '/file'\n[server]\nlisten = '127.0.0.1:1'\n[token]\naudience = 'file'\n";
    let variables = [("KEYDESK_SERVER__LISTEN", "127.0.0.1:2"), ("KEYDESK_TOKEN__AUDIENCE", "variable")];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("k.toml");
    std::fs::write(&path, file).unwrap();
    let flags =
        Flags { config: Some(path), listen: Some("127.0.0.1:3".parse().unwrap()), ..Flags::default() };
    let config = load(&flags, &environment(&variables)).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.token.audience, "variable");
    assert_eq!(config.data_dir, Path::new("/file"));
    assert_eq!(config.kek.current, Path::new("/file/kek"));
}

#[test]
fn every_key_can_be_set_in_the_file_and_in_the_environment() {
    for (name, text, toml) in [
        ("data_dir", "/d", "'/d'"),
        ("server.listen", "[::1]:9", "'[::1]:9'"),
        ("server.public_url", "https://keys.example.com/desk", "'https://keys.example.com/desk'"),
        ("server.insecure_listen", "true", "true"),
        ("server.trusted_proxies", "127.0.0.1, 10.0.0.0/8", "['127.0.0.1', '10.0.0.0/8']"),
        ("server.allow_from", "10.0.0.0/8", "'10.0.0.0/8'"),
        ("admin.allow_from", "10.0.0.0/8, ::1", "['10.0.0.0/8', '::1']"),
        ("server.drain_delay", "0s", "'0s'"),
        ("limits.connections", "10", "10"),
        ("limits.connections_per_source", "5", "5"),
        ("database.url", "sqlite:///var/k.db", "'sqlite:///var/k.db'"),
        ("kek.file", "/run/kek", "'/run/kek'"),
        ("kek.previous_file", "/run/old", "'/run/old'"),
        ("token.algorithm", "ES256", "'ES256'"),
        ("token.access_ttl", "1h", "'1h'"),
        ("token.audience", "https://x", "'https://x'"),
        ("password.enabled", "false", "false"),
        ("password.min_length", "8", "8"),
        ("metrics.listen", "[::1]:9464", "'[::1]:9464'"),
        ("alerts.format", "slack", "'slack'"),
        ("alerts.allow_to", "10.0.0.0/8, 127.0.0.1", "['10.0.0.0/8', '127.0.0.1']"),
        ("limits.keys", "10/second", "'10/second'"),
        ("limits.token", "off", "'off'"),
        ("traces.endpoint", "http://collector:4318", "'http://collector:4318'"),
        ("log.format", "json", "'json'"),
        ("log.level", "trace", "'trace'"),
    ] {
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let value = |config: Config| config.values.into_iter().find(|value| value.key.name == name).unwrap();
        let from_file = value(load_with(&format!("{name} = {toml}"), &[]).unwrap());
        assert_eq!((from_file.text.as_str(), matches!(from_file.source, Source::File(_))), (text, true));
        let from_variable = value(load_with("", &[(&key.variable(), text)]).unwrap());
        assert_eq!(
            (from_variable.text.as_str(), from_variable.source),
            (text, Source::Variable(key.variable()))
        );
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    assert_eq!(
        refused("[server]\nlisten_on = 'x'", &[]),
        "k.toml: there is no key server.listen_on; the nearest is server.listen"
    );
    assert_eq!(refused("[servr]\n", &[]), "k.toml: there is no table servr; the nearest is server");
    assert_eq!(
        refused("[server.listen.x]\ny = 1", &[]),
        format!(
            "k.toml: server.listen must be a string in quotes (allowed: {})",
            keys::SERVER_LISTEN.allowed
        )
    );
    assert_eq!(
        refused("", &[("KEYDESK_SERVER_LISTEN", "x")]),
        "there is no setting KEYDESK_SERVER_LISTEN; the nearest is KEYDESK_SERVER__LISTEN"
    );
    assert_eq!(
        refused("", &[("KEYDESK_ADMIN_PASWORD", "x")]),
        "there is no setting KEYDESK_ADMIN_PASWORD; the nearest is KEYDESK_ADMIN_PASSWORD"
    );
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let variables = [
        ("KEYDESK_ADMIN_PASSWORD", "x"),
        ("KEYDESK_ADMIN_PASSWORD_FILE", "x"),
        ("KEYDESK_CONFIG", "/nowhere, and --config wins"),
        ("KEYDESK_SERVICE_HOST", "10.0.0.1"),
        ("KEYDESK_SERVICE_PORT_HTTP", "8000"),
        ("KEYDESK_PORT", "tcp://10.0.0.1:8000"),
        ("KEYDESK_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("KEYDESK_SERVER__LISTEN", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(load_with("", &variables).unwrap().listen.port(), 8000, "an empty variable is not set");
}

#[test]
fn what_is_wrong_is_said_without_repeating_the_value() {
    for (key, text, what) in [
        (&keys::DATA_DIR, "SECRET\n", None),
        (&keys::SERVER_LISTEN, "SECRET", Some("is not an IP address and a port")),
        (&keys::SERVER_LISTEN, "localhost:8000", Some("is not an IP address and a port")),
        (&keys::SERVER_LISTEN, "0.0.0.0:8000", Some("can be reached from other machines")),
        (&keys::SERVER_LISTEN, "[::]:8000", Some("can be reached from other machines")),
        (&keys::SERVER_INSECURE_LISTEN, "yes", Some("is neither")),
        (&keys::SERVER_DRAIN_DELAY, "SECRET", Some("is not a length of time")),
        (&keys::SERVER_DRAIN_DELAY, "1h", Some("is too long")),
        (&keys::TLS_CERT_FILE, "SECRET", Some("is of no use alone")),
        (&keys::TLS_KEY_FILE, "SECRET", Some("is of no use alone")),
        (&keys::TLS_CLIENT_CA_FILE, "SECRET", Some("is of no use alone")),
        (&keys::LIMITS_CONNECTIONS, "0", Some("is too small or too large")),
        (&keys::LIMITS_CONNECTIONS_PER_SOURCE, "SECRET", Some("is not a whole number")),
        (&keys::DATABASE_URL, "postgres://u:SECRET@h:SECRET/d", Some("is not a PostgreSQL URL")),
        (&keys::DATABASE_URL, "sqlite:keydesk.db", Some("is not a database URL")),
        (&keys::DATABASE_URL, "sqlite://k.db?mode=memory", Some("has options")),
        (&keys::DATABASE_URL, "sqlite://:memory:", Some("does not name a file")),
        (&keys::TOKEN_ALGORITHM, "none", Some("is not one of them (allowed: EdDSA, ES256 or RS256)")),
        (&keys::TOKEN_ALGORITHM, "HS256", Some("is not one of them")),
        (&keys::TOKEN_ACCESS_TTL, "59s", Some("is too short or too long (allowed: 1m to 60m)")),
        (&keys::TOKEN_ACCESS_TTL, "61m", Some("is too short or too long")),
        (&keys::TOKEN_ACCESS_TTL, "SECRET", Some("is not a length of time")),
        (&keys::TOKEN_AUDIENCE, "a b", Some("cannot be an audience")),
        (&keys::PASSWORD_MIN_LENGTH, "7", Some("is too small or too large")),
        (&keys::PASSWORD_MIN_LENGTH, "SECRET", Some("is not a whole number")),
        (&keys::ALERTS_WEBHOOK_URL, "SECRET", Some("does not begin with")),
        (&keys::ALERTS_WEBHOOK_URL, "file:///SECRET", Some("does not begin with")),
        (&keys::ALERTS_WEBHOOK_URL, "https://", Some("is not a URL")),
        (&keys::ALERTS_WEBHOOK_URL, "https://user:SECRET@host/", Some("is not a URL")),
        (&keys::AUDIT_CHECKPOINT_WEBHOOK_URL, "https://host/SECRET path", Some("is not a URL")),
        (&keys::AUDIT_CHECKPOINT_WEBHOOK_URL, "https://host/#SECRET", Some("has a fragment")),
        (&keys::ALERTS_FORMAT, "SECRET", Some("is neither")),
        (&keys::ALERTS_ALLOW_TO, "10.0.0.0/8, SECRET", Some("has an entry (number 2), which is not")),
        (&keys::LOG_FORMAT, "xml", Some("is neither")),
        (&keys::LOG_LEVEL, "INFO", Some("is not one of them")),
    ] {
        let result = load_with("", &[(&key.variable(), text)]);
        let Some(what) = what else {
            assert!(result.is_ok());
            continue;
        };
        let error = result.unwrap_err();
        let begin = format!(
            "{}: {} {}",
            key.variable(),
            key.name,
            if what.starts_with("PostgreSQL") { "names a " } else { "" }
        );
        assert!(error.starts_with(&format!("{begin}{what}")), "{error}");
        assert!(error.ends_with(&format!("(allowed: {})", key.allowed)), "{error}");
        assert!(!error.contains("SECRET"), "{error}");
    }
}

#[test]
fn the_file_is_strict_about_types_and_does_not_quote_itself() {
    assert!(
        refused("[password]\nmin_length = '15'", &[])
            .starts_with("k.toml: password.min_length must be a whole number")
    );
    assert!(
        refused("[password]\nenabled = 'true'", &[])
            .starts_with("k.toml: password.enabled must be true or false")
    );
    assert!(refused("data_dir = 5", &[]).starts_with("k.toml: data_dir must be a string in quotes"));
    let error = refused("data_dir = 'x'\nx = SECRET oops\n", &[]);
    assert!(error.starts_with("k.toml, line 2: ") && !error.contains("SECRET"), "{error}");
    let flags = Flags { config: Some("/nowhere.toml".into()), ..Flags::default() };
    let error = load(&flags, &environment(&[])).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration /nowhere.toml: "), "{error}");
}

#[test]
fn insecure_listen_allows_what_it_says() {
    let variables = [("KEYDESK_SERVER__LISTEN", "0.0.0.0:80"), ("KEYDESK_SERVER__INSECURE_LISTEN", "true")];
    assert_eq!(load_with("", &variables).unwrap().listen.to_string(), "0.0.0.0:80");
    assert!(load_with("", &[("KEYDESK_SERVER__LISTEN", "[::ffff:127.0.0.1]:80")]).is_ok());
}

#[test]
fn metrics_are_off_or_for_this_machine_unless_it_is_said_otherwise() {
    let listen = |text: &'static str| ("KEYDESK_METRICS__LISTEN", text);
    assert_eq!(load_with("", &[]).unwrap().metrics_listen, None);
    assert_eq!(load_with("", &[listen("127.0.0.1:0")]).unwrap().metrics_listen.unwrap().port(), 0);
    let error = load_with("", &[listen("0.0.0.0:9464")]).unwrap_err();
    assert!(error.contains("metrics.listen can be reached from other machines"), "{error}");
    let open = [listen("0.0.0.0:9464"), ("KEYDESK_SERVER__INSECURE_LISTEN", "true")];
    assert!(load_with("", &open).unwrap().metrics_listen.is_some());
    assert!(load_with("", &[listen("on")]).unwrap_err().contains("allowed: off, or an IP"));
}

#[test]
fn with_tls_an_address_may_be_public_and_the_issuer_is_https() {
    let files = [("KEYDESK_TLS__CERT_FILE", "cert.pem"), ("KEYDESK_TLS__KEY_FILE", "key.pem")];
    let everywhere = ("KEYDESK_SERVER__LISTEN", "0.0.0.0:443");
    let config = load_with("tls.client_ca_file = 'ca.pem'", &[files[0], files[1], everywhere]).unwrap();
    assert_eq!(config.issuer("192.0.2.1:443".parse().unwrap()), "https://192.0.2.1:443");
    let tls = config.tls.unwrap();
    let paths = [Some(tls.cert_file), Some(tls.key_file), tls.client_ca_file];
    assert_eq!(paths, ["cert.pem", "key.pem", "ca.pem"].map(|path| Some(path.into())));
    let plain = load_with("", &[]).unwrap();
    assert_eq!(plain.issuer(plain.listen), "http://127.0.0.1:8000");
}

#[test]
fn a_public_url_is_an_issuer() {
    for good in [
        "http://localhost:8000",
        "https://keys.example.com",
        "https://[::1]:8443/desk",
        "http://10.0.0.1/a/b",
    ] {
        assert_eq!(url::public(good).as_deref(), Ok(good));
    }
    for bad in [
        "",
        "keys.example.com",
        "ftp://x",
        "HTTPS://x",
        "https://",
        "https:///x",
        "https://x/",
        "https://x?y",
        "https://x#y",
        "https://user:pw@x",
        "https://x:0",
        "https://x:99999",
        "https://x:",
        "https://x y",
        "https://X",
        "https://x/'$(id)'",
        "https://x//y",
        "https://[::1",
        "https://[nope]",
        "https://x:+80",
    ] {
        assert!(url::public(bad).is_err(), "{bad}");
    }
}

#[test]
fn database_url_is_an_alias_that_the_longer_name_overrides() {
    let short = ("DATABASE_URL", "sqlite://short.db");
    assert_eq!(load_with("", &[short]).unwrap().database.to_string(), "short.db");
    assert_eq!(
        load_with("database.url = 'sqlite://file.db'", &[short]).unwrap().database.to_string(),
        "short.db"
    );
    let long = ("KEYDESK_DATABASE__URL", "sqlite://long.db");
    assert_eq!(load_with("", &[short, long]).unwrap().database.to_string(), "long.db");
    let server = load_with("", &[("DATABASE_URL", "postgres://u:hunter2@db.example/desk")]).unwrap();
    assert_eq!(server.database.to_string(), "desk at db.example:5432");
    let shown = server.values.iter().find(|value| value.key.name == "database.url").unwrap();
    assert_eq!(shown.text, "postgres://… (desk at db.example:5432)");
    assert!(!format!("{server:?}").contains("hunter2"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test looks at what was read")]
fn secrets_come_from_a_variable_or_a_file_and_the_usual_name_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "from the file\n\n").unwrap();
    let path = path.to_str().unwrap();
    let variables = [
        ("KEYDESK_ADMIN_PASSWORD_FILE", path),
        ("GOOGLE_API_KEY", "second"),
        ("GEMINI_API_KEY", "first"),
        ("COHERE_API_KEY", "the other name"),
        ("OPENAI_API_KEY", ""),
        ("SERVICE_API_KEY", "service"),
    ];
    let secrets = environment(&variables).secrets().unwrap();
    assert_eq!(secrets.admin_password.unwrap().expose(), "from the file\n", "one newline is trimmed");
    assert_eq!(secrets.found.service_api_key.unwrap().expose(), "service");
    let found: Vec<_> = secrets
        .found
        .provider_keys
        .iter()
        .map(|key| (key.provider.as_str(), key.variable.as_str(), key.key.expose()))
        .collect();
    assert_eq!(
        found,
        [("gemini", "GEMINI_API_KEY", "first"), ("cohere", "COHERE_API_KEY", "the other name")]
    );
}

#[test]
fn a_secret_that_cannot_be_read_is_named_and_not_shown() {
    let refused = |variables: &[(&str, &str)]| environment(variables).secrets().unwrap_err().to_string();
    assert_eq!(
        refused(&[("OPENAI_API_KEY", "SECRET"), ("OPENAI_API_KEY_FILE", "SECRET")]),
        "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set: unset the one that is not meant"
    );
    assert!(
        refused(&[("SERVICE_API_KEY_FILE", "sk-SECRET")])
            .starts_with("SERVICE_API_KEY_FILE names a file that cannot be used: ")
    );
    assert!(!refused(&[("SERVICE_API_KEY_FILE", "sk-SECRET")]).contains("SECRET"));
    assert_eq!(
        refused(&[("OPENAI_API_KEY_FILE", "/dev/null")]),
        "OPENAI_API_KEY_FILE names a file that cannot be used: it is empty"
    );
    let latin: Environment =
        [("OPENAI_API_KEY".to_owned(), OsString::from_vec(vec![0xe9]))].into_iter().collect();
    assert_eq!(latin.secrets().unwrap_err().to_string(), "OPENAI_API_KEY is not UTF-8 text");
    assert_eq!(format!("{:?}", environment(&[("OPENAI_API_KEY", "SECRET")])), r#"{"OPENAI_API_KEY"}"#);
}

#[test]
fn a_list_of_networks_is_read_in_any_form_and_its_mistakes_are_named() {
    let key = &keys::SERVER_TRUSTED_PROXIES;
    let proxies = |file: &str| load_with(file, &[]).unwrap().trusted_proxies.len();
    assert_eq!(proxies(""), 0);
    assert_eq!(proxies("server.trusted_proxies = 'none'"), 0);
    assert_eq!(proxies("server.trusted_proxies = []"), 0);
    assert_eq!(proxies("server.trusted_proxies = ['::1', '10.0.0.0/8']"), 2);
    assert_eq!(proxies("server.trusted_proxies = '::1 , 10.0.0.0/8'"), 2);
    let place = format!("{}: server.trusted_proxies", key.variable());
    for (text, what) in [
        ("10.0.0.0/33", "has 10.0.0.0/33 in it, which is not an address or a network such as"),
        ("127.0.0.1,fe80::1%1", "has fe80::1%1 in it, which is not an address"),
        ("127.0.0.1, CANARY", "has an entry (number 2), which is not an address"),
        ("127.0.0.1,", "has an entry (number 2), which is not an address"),
        ("127.0.0.1,::/0", "trusts everybody, so that anybody could say to be anywhere"),
    ] {
        let message = refused("", &[(&key.variable(), text)]);
        assert!(message.starts_with(&format!("{place} {what}")) && !message.contains("CANARY"), "{message}");
    }
    let allowed = |file: &str| load_with(file, &[]).unwrap().allow_from.to_string();
    assert_eq!(allowed(""), "anywhere");
    assert_eq!(allowed("server.allow_from = 'anywhere'"), "anywhere");
    assert_eq!(allowed("server.allow_from = ['10.1.2.3/8', '::1']"), "10.0.0.0/8, ::1/128");
    let message = refused("admin.allow_from = []", &[]);
    assert!(
        message.starts_with("k.toml: admin.allow_from is a list of nothing, which would shut everybody out")
    );
    let message = refused("server.trusted_proxies = [1]", &[]);
    assert!(message.contains("must be an array of strings, each in quotes"), "{message}");
}

/// For Slack and its like, who knows the URL may post.
#[test]
fn a_webhook_url_is_shown_without_its_path() {
    let url = "https://hooks.example.com:8443/services/CANARY?token=CANARY";
    let config = load_with("", &[("KEYDESK_ALERTS__WEBHOOK_URL", url)]).unwrap();
    let shown = config.values.iter().find(|value| value.key.name == "alerts.webhook_url").unwrap();
    assert_eq!(shown.text, "https://hooks.example.com:8443/…");
    assert!(!format!("{config:?}").contains("CANARY"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test looks at what was read")]
fn a_webhook_url_can_come_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("url");
    std::fs::write(&path, "https://hooks.example.com/CANARY\n").unwrap();
    let path = path.to_str().unwrap();
    for name in ["KEYDESK_ALERTS__WEBHOOK_URL", "KEYDESK_AUDIT__CHECKPOINT_WEBHOOK_URL"] {
        let in_file = format!("{name}_FILE");
        let config = load_with("", &[(&in_file, path)]).unwrap();
        let Alerts { webhook_url, checkpoint_webhook_url, .. } = &config.alerts;
        let url = webhook_url.as_ref().or(checkpoint_webhook_url.as_ref()).unwrap();
        assert_eq!(url.expose(), "https://hooks.example.com/CANARY");
        let shown = config.values.iter().find(|value| value.key.variable() == name).unwrap();
        assert_eq!(
            (shown.text.as_str(), &shown.source),
            ("https://hooks.example.com/…", &Source::Variable(in_file.clone()))
        );
        assert!(!format!("{config:?}").contains("CANARY"));
        let both = refused("", &[(&in_file, path), (name, "https://hooks.example.com/CANARY")]);
        assert!(both.contains("are both set") && !both.contains("CANARY"), "{both}");
        std::fs::write(path, "ftp://CANARY").unwrap();
        let wrong = refused("", &[(&in_file, path)]);
        assert!(wrong.starts_with(&in_file) && !wrong.contains("CANARY"), "{wrong}");
        std::fs::write(path, "https://hooks.example.com/CANARY").unwrap();
    }
}

#[test]
fn a_webhook_secret_is_checked_and_not_shown() {
    let refused =
        environment(&[("KEYDESK_ALERTS__WEBHOOK_SECRET", "SECRET")]).secrets().unwrap_err().to_string();
    assert!(refused.starts_with("KEYDESK_ALERTS__WEBHOOK_SECRET is not whsec_ followed by"), "{refused}");
}

#[test]
fn a_limit_is_a_rate_or_off() {
    let limits = load_with("[limits]\nkeys = 'off'\ntoken = '5/hour'", &[]).unwrap().limits;
    let said = [limits.keys, limits.token, limits.introspect].map(|rate| rate.map(|rate| rate.to_string()));
    assert_eq!(said, [None, Some("5/hour".to_owned()), Some("600/minute".to_owned())]);
    assert_eq!(
        refused("limits.keys = '0/minute'", &[]),
        "k.toml: limits.keys is not a rate (allowed: 1 to 1000000 per second, minute, hour or day, such as 60/minute; or off)"
    );
    assert!(refused("limits.keys = 60", &[]).starts_with("k.toml: limits.keys must be a string in quotes"));
}
