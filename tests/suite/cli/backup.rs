//! `keydesk backup`, `restore` and `migrate-store`: a desk comes back as it was, or not at all.

use std::{fs, path::Path};

use flate2::bufread::GzDecoder;
use serde_json::{Value, json};

use crate::support::{PASSWORD, Place, Server, read};

const OPENAI: (&str, &str) = ("OPENAI_API_KEY", "sk-proj-CANARY0123456789");
const ADMIN: (&str, &str) = ("KEYDESK_ADMIN_PASSWORD", PASSWORD);
const ALICE: &str = "alice has a long password";

/// The issuer of every server here: tokens of one go on at the next.
const ISSUER: (&str, &str) = ("KEYDESK_SERVER__PUBLIC_URL", "http://localhost:8000");

fn address(server: &Server) -> String {
    let (_, address) = server.banner.split_once("Listening on:").unwrap();
    format!("http://{}", address.lines().next().unwrap().trim())
}

/// Asks a server, and returns what it answers.
fn ask(request: impl FnOnce(reqwest::Client) -> reqwest::RequestBuilder) -> (u16, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = request(reqwest::Client::new()).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    })
}

fn token(server: &Server, form: &[(&str, &str)]) -> (u16, Value) {
    ask(|client| client.post(format!("{}/token", address(server))).form(form))
}

fn keys(server: &Server, credential: &str) -> (u16, Value) {
    ask(|client| client.get(format!("{}/llm-keys", address(server))).bearer_auth(credential))
}

/// What clients hold of a desk.
struct Held {
    access: String,
    refresh: String,
    api_key: String,
    secret: String,
}

impl Held {
    /// A desk with something in each table that people fill, and a server on it.
    fn at(place: &Place) -> (Self, Server) {
        let server = place.serve(&[OPENAI, ADMIN, ISSUER]);
        place.must_with(
            &["user", "add", "alice", "--project", "default", "--password-stdin"],
            &format!("{ALICE}\n"),
        );
        let made = place.json(&["service-account", "add", "ci", "--project", "default"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let form = [("grant_type", "password"), ("username", "alice"), ("password", ALICE)];
        let (status, given) = token(&server, &form);
        assert_eq!(status, 200, "{given}");
        let held = Self {
            access: text(&given["access_token"]),
            refresh: text(&given["refresh_token"]),
            api_key: text(&made["token"]),
            secret: text(&made["client_secret"]),
        };
        for credential in [&held.access, &held.api_key] {
            assert_eq!(keys(&server, credential), (200, json!({ "openai": OPENAI.1 })));
        }
        (held, server)
    }

    /// All of it goes on working.
    fn works(&mut self, server: &Server) {
        for credential in [&self.access, &self.api_key] {
            assert_eq!(keys(server, credential), (200, json!({ "openai": OPENAI.1 })));
        }
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "ci"),
            ("client_secret", self.secret.as_str()),
        ];
        assert_eq!(token(server, &form).0, 200);
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", self.refresh.as_str()),
            ("client_id", "keydesk"),
        ];
        let (status, given) = token(server, &form);
        assert_eq!(status, 200, "{given}");
        given["refresh_token"].as_str().unwrap().clone_into(&mut self.refresh);
    }
}

/// Everything that lists show.
fn lists(place: &Place) -> Vec<Value> {
    let lists = [
        ["user", "list"],
        ["service-account", "list"],
        ["api-key", "list"],
        ["grant", "list"],
        ["key", "list"],
    ];
    let mut lists: Vec<_> = lists.iter().map(|arguments| place.json(arguments)).collect();
    for key in lists[2].as_array_mut().unwrap() {
        key.as_object_mut().unwrap().remove("last_used_at");
    }
    lists
}

/// A place with nothing but the key-encryption key of another.
fn with_kek_of(place: &Place) -> Place {
    let other = Place::new();
    fs::create_dir(other.path("keydesk-data")).unwrap();
    fs::copy(place.path("keydesk-data/kek"), other.path("keydesk-data/kek")).unwrap();
    other
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn restore(place: &Place, file: &Path) -> crate::support::Done {
    place.run(&["restore", file.to_str().unwrap()])
}

#[test]
fn a_backup_of_a_running_desk_becomes_the_same_desk_elsewhere() {
    let place = Place::new();
    let (mut held, server) = Held::at(&place);
    let said = place.must(&["backup", "desk.backup"]);
    assert!(said.starts_with("desk.backup holds the desk as it was at 20"), "{said}");
    assert_eq!(place.mode("desk.backup"), 0o600);
    assert_eq!(server.stop(), 0);

    let other = with_kek_of(&place);
    let restored = restore(&other, &place.path("desk.backup"));
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(restored.stdout.contains("the book is whole") && restored.stderr.is_empty(), "{restored:?}");
    assert_eq!(lists(&other), lists(&place));
    let server = other.serve(&[ISSUER]);
    held.works(&server);
    assert_eq!(server.stop(), 0);
    other.must(&["audit", "verify"]);
    let book = other.json(&["audit", "list", "--limit", "100"]);
    let actions: Vec<_> = book.as_array().unwrap().iter().map(|event| &event["action"]).collect();
    let place_of = |action: &str| actions.iter().position(|seen| *seen == action).unwrap();
    assert!(place_of("server.start") < place_of("desk.restore"));
    assert!(place_of("desk.restore") < place_of("desk.backup"), "a backup tells of itself");
}

#[test]
fn a_backup_shows_no_secret_and_is_told_from_a_desk() {
    let place = Place::new();
    let (clients, server) = Held::at(&place);
    place.must(&["backup", "desk.backup"]);
    assert_eq!(server.stop(), 0);
    let bytes = fs::read(place.path("desk.backup")).unwrap();
    let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let header: Value = serde_json::from_slice(&bytes[..first]).unwrap();
    assert_eq!(header["keydesk_backup"], 1);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut GzDecoder::new(&bytes[first..]), &mut unpacked).unwrap();
    let text = String::from_utf8(unpacked).unwrap();
    assert!(text.contains("alice") && text.contains("desk.initialise"));
    let kek = read(&place.path("keydesk-data/kek"));
    for secret in [
        OPENAI.1,
        ALICE,
        PASSWORD,
        &clients.access,
        &clients.refresh,
        &clients.api_key,
        &clients.secret,
        kek.trim(),
    ] {
        assert!(!text.contains(secret) && !text.contains(&hex(secret.as_bytes())), "{secret}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

#[test]
fn nothing_is_written_over() {
    let place = Place::with_desk();
    place.must(&["backup", "desk.backup"]);
    let first = fs::read(place.path("desk.backup")).unwrap();
    let again = place.run(&["backup", "desk.backup"]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("desk.backup is there already"), "{again:?}");
    assert_eq!(fs::read(place.path("desk.backup")).unwrap(), first);
    place.must(&["backup", "desk.backup", "--force"]);
    assert_ne!(fs::read(place.path("desk.backup")).unwrap(), first);
    assert!(!place.names().iter().any(|name| name.contains("partial")), "{:?}", place.names());

    let before = lists(&place);
    let refused = restore(&place, &place.path("desk.backup"));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.starts_with("keydesk: there is a desk at "), "{refused:?}");
    assert_eq!(lists(&place), before);
    let nowhere = place.run(&["backup", "no/such/directory/desk.backup"]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("cannot create no/such/directory"), "{nowhere:?}");
}

#[test]
fn without_its_key_encryption_key_a_backup_opens_nothing() {
    let place = Place::with_desk();
    place.must(&["backup", "desk.backup"]);
    let file = place.path("desk.backup");

    let other = Place::new();
    let refused = restore(&other, &file);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the key-encryption key ./keydesk-data/kek is missing"), "{refused:?}");
    assert_eq!(other.names(), [""; 0], "nothing is left behind");

    let stranger = with_kek_of(&Place::with_desk());
    let refused = restore(&stranger, &file);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("is not the one that the backup was sealed with"), "{refused:?}");
    assert_eq!(files(&stranger.path("keydesk-data")), ["kek"]);
}

#[test]
fn a_damaged_backup_is_refused_and_leaves_nothing() {
    let place = Place::with_desk();
    place.must(&["backup", "desk.backup"]);
    let good = fs::read(place.path("desk.backup")).unwrap();
    let head = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let other = with_kek_of(&place);
    let bad = other.path("bad.backup");
    let refused = |bytes: &[u8], what: &str, says: &str| {
        fs::write(&bad, bytes).unwrap();
        let refused = restore(&other, &bad);
        assert_eq!(refused.code, 1, "{what}: {refused:?}");
        assert!(refused.stderr.contains(says), "{what}: {refused:?}");
        let left = files(&other.path("keydesk-data"));
        assert!(left == ["kek"] || left == ["kek", "keydesk.db.lock"], "{what}: {left:?}");
    };
    for kept in [0, 1, head - 2] {
        refused(&good[..kept], "cut off in its first line", "this is not a backup that keydesk has written");
    }
    for kept in [head, head + 20, good.len() / 2, good.len() - 66, good.len() - 65, good.len() - 1] {
        refused(&good[..kept], &format!("cut off at {kept} of {}", good.len()), "the backup is damaged");
    }
    refused(&[&good[..], b"\n"].concat(), "longer", "the backup is damaged");
    let mut altered = good.clone();
    let step = good.len() / 40;
    for place in (head..good.len()).step_by(step).chain([good.len() - 64, good.len() - 2, good.len() - 1]) {
        altered[place] ^= 1;
        refused(&altered, &format!("bit of byte {place} of {}", good.len()), "the backup is damaged");
        altered[place] ^= 1;
    }
    let said = |from: &str, to: &str| {
        let header = String::from_utf8(good[..head].to_vec()).unwrap();
        assert!(header.contains(from));
        [header.replace(from, to).as_bytes(), &good[head..]].concat()
    };
    refused(&said("\"checkpoint\":", "\"checkpoint\":1"), "another header", "the backup is damaged");
    refused(
        &said("backup\":1", "backup\":2"),
        "a newer format",
        "the backup has format 2, and this keydesk knows 1",
    );
    refused(
        &said("\"schema\":", "\"schema\":9"),
        "a newer schema",
        "restore it with the version that wrote it",
    );
    refused(b"SQLite format 3\0", "something else", "this is not a backup that keydesk has written");

    fs::write(&bad, &good).unwrap();
    assert_eq!(restore(&other, &bad).code, 0, "the same file is good as long as nothing is changed");
}

#[test]
fn a_backup_that_is_older_than_a_checkpoint_says_what_is_lost() {
    let place = Place::with_desk();
    place.must(&["backup", "desk.backup"]);
    place.must(&["project", "add", "later"]);
    place.must(&["project", "add", "still-later"]);
    let other = with_kek_of(&place);
    let data = other.path("keydesk-data");
    fs::copy(place.path("keydesk-data/audit.checkpoints"), data.join("audit.checkpoints")).unwrap();
    let known = read(&data.join("audit.checkpoints"));

    let restored = restore(&other, &place.path("desk.backup"));
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(restored.stderr.starts_with("WARNING: 2 events are missing that checkpoint "), "{restored:?}");
    assert_eq!(read(&data.join("audit.checkpoints")), known, "the proof stays");
    let verified = other.run(&["audit", "verify"]);
    assert!(verified.code == 1 && verified.stderr.contains("truncated behind checkpoint"), "{verified:?}");
    let events = other.json(&["audit", "list", "--action", "desk.restore"]);
    assert!(events[0]["detail"].as_str().unwrap().ends_with("knows 2 events more"), "{events}");

    fs::rename(data.join("audit.checkpoints"), other.path("proof")).unwrap();
    fs::rename(data.join("audit.checkpoints.of-backup"), data.join("audit.checkpoints")).unwrap();
    other.must(&["audit", "verify"]);
    other.must(&["project", "add", "after-all"]);
    other.must(&["audit", "verify"]);
    assert_eq!(other.run(&["audit", "verify", "--checkpoints", "proof"]).code, 1);
}

#[test]
fn a_backup_goes_through_a_pipe() {
    let place = Place::with_desk();
    place.must(&["backup", "direct"]);
    let piped = place.command(&["backup", "-"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout.starts_with(b"{\"keydesk_backup\":1,"));
    let other = with_kek_of(&place);
    fs::write(other.path("piped"), piped.stdout).unwrap();
    let restored = other
        .command(&["restore", "-"])
        .stdin(fs::File::open(other.path("piped")).unwrap())
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(lists(&other), lists(&place));
}

#[test]
fn a_desk_moves_into_another_database_and_its_clients_do_not_notice() {
    let (place, other) = (Place::new(), Place::new());
    let (mut held, server) = Held::at(&place);
    let moving = ["migrate-store", "--to", "sqlite://moved.db"];
    let refused = place.run(&moving);
    assert!(refused.code == 1 && refused.stderr.contains("keydesk serves"), "{refused:?}");
    assert_eq!(server.stop(), 0);
    assert!(!place.path("moved.db").exists());

    let said = place.must(&moving);
    assert!(
        said.starts_with("the desk has moved to moved.db") && said.contains("the book is whole"),
        "{said}"
    );
    let refused = place.run(&moving);
    assert!(refused.code == 1 && refused.stderr.starts_with("keydesk: there is a desk at "), "{refused:?}");

    let serve_at = |url: &str, held: &mut Held| {
        let database = ("DATABASE_URL", url);
        let server = place.serve(&[ISSUER, database]);
        held.works(&server);
        assert_eq!(server.stop(), 0);
        let verified = place.run_with(&["audit", "verify"], &[database], "");
        assert_eq!(verified.code, 0, "{verified:?}");
        place.run_with(&["audit", "list", "--action", "desk.migrate"], &[database], "").stdout
    };
    let listed = serve_at("sqlite://moved.db", &mut held);
    assert!(listed.contains(&format!("desk from {}", place.desk())), "{listed}");

    // Where the suite runs on PostgreSQL, out of a file into a server; with the data directory that was there all the time.
    let to = if other.url().starts_with("sqlite") { "sqlite://again.db".to_owned() } else { other.url() };
    place.must(&["migrate-store", "--from", "sqlite://moved.db", "--to", &to]);
    let listed = serve_at(&to, &mut held);
    assert_eq!(listed.matches("desk.migrate").count(), 2, "{listed}");

    let wrong = place.run(&["migrate-store", "--to", "mysql://root:CANARY@db"]);
    assert_eq!(
        (wrong.code, wrong.stderr.as_str()),
        (2, "keydesk: --to is not a database URL that is known\n")
    );
}

#[test]
fn a_backup_of_one_engine_is_restored_into_the_other() {
    let place = Place::new();
    let (mut held, server) = Held::at(&place);
    place.must(&["backup", "desk.backup"]);
    assert_eq!(server.stop(), 0);
    let other = with_kek_of(&place);
    let file = ("DATABASE_URL", "sqlite://keydesk-data/file.db");
    let into_file = ["restore", place.path("desk.backup").to_str().unwrap()].map(str::to_owned);
    let restored = other.run_with(&into_file.each_ref().map(String::as_str), &[file], "");
    assert_eq!(restored.code, 0, "{restored:?}");
    let server = other.serve(&[ISSUER, file]);
    held.works(&server);
    assert_eq!(other.run_with(&["backup", "back.backup"], &[file], "").code, 0);
    assert_eq!(server.stop(), 0);
    let back = with_kek_of(&place);
    let restored = restore(&back, &other.path("back.backup"));
    assert_eq!(restored.code, 0, "{restored:?}");
    let server = back.serve(&[ISSUER]);
    held.works(&server);
    assert_eq!(server.stop(), 0);
    back.must(&["audit", "verify"]);
    assert_eq!(lists(&back), lists(&place));
}
