//! The client's commands: who one is, what the exit codes say, and the copy for when the desk is away.

use std::fs;

use crate::support::{Done, PASSWORD, Place, Server, eventually, read};

const KEY: &str = "sk-proj-0123456789abcdef";
const API_KEY: &str = "svc-0123456789abcdef0123";

/// A desk that serves, and a home for whoever asks it.
struct Around {
    server: Server,
    home: Place,
    desk: Place,
}

impl Around {
    fn new() -> Self {
        let desk = Place::new();
        let given = [
            ("KEYDESK_ADMIN_PASSWORD", PASSWORD),
            ("OPENAI_API_KEY", KEY),
            ("SERVICE_API_KEY", API_KEY),
            // The client's, which the desk knows not to be its own.
            ("KEYDESK_URL", "http://127.0.0.1:9"),
            ("KEYDESK_CLIENT_SECRET_FILE", "nowhere"),
        ];
        Self { server: desk.serve(&given), home: Place::new(), desk }
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)], stdin: &str) -> Done {
        let home = self.home.path("");
        let variables: Vec<_> =
            [("HOME", home.to_str().unwrap())].into_iter().chain(variables.iter().copied()).collect();
        self.home.run_with(arguments, &variables, stdin)
    }

    /// A command that must succeed, and what it printed.
    fn must(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments, &[], "");
        assert_eq!(done.code, 0, "keydesk {arguments:?}: {}", done.stderr);
        done.stdout
    }

    fn log_in(&self, more: &[&str]) -> Done {
        let begin =
            ["login", self.server.url(), "--username", "admin", "--password-stdin", "--profile", "work"];
        self.run(&[begin.as_slice(), more].concat(), &[], PASSWORD)
    }

    fn profiles(&self) -> String {
        read(&self.home.path(".config/keydesk/profiles.toml"))
    }

    fn write_profiles(&self, text: &str) {
        fs::create_dir_all(self.home.path(".config/keydesk")).unwrap();
        fs::write(self.home.path(".config/keydesk/profiles.toml"), text).unwrap();
    }
}

/// What the environment says, the exit code, and a part of what is said about it.
type Told<'a> = (&'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn whoever_says_half_of_who_they_are_is_told_the_other_half() {
    let around = Around::new();
    let url = ("KEYDESK_URL", around.server.url());
    let both = around.home.path("both");
    fs::write(&both, API_KEY).unwrap();
    let cases: &[Told<'_>] = &[
        (&[], 3, "keydesk login"),
        (&[url], 3, "keydesk login http"),
        (&[("KEYDESK_PROFILE", "work")], 3, "keydesk login URL --profile work"),
        (&[("KEYDESK_PROFILE", "no name")], 1, "KEYDESK_PROFILE"),
        (&[("KEYDESK_API_KEY", API_KEY)], 1, "KEYDESK_URL"),
        (&[url, ("KEYDESK_CLIENT_ID", "ci")], 1, "KEYDESK_CLIENT_SECRET"),
        (&[url, ("KEYDESK_CLIENT_SECRET", "s")], 1, "KEYDESK_CLIENT_ID"),
        (&[url, ("KEYDESK_API_KEY", API_KEY), ("KEYDESK_CLIENT_ID", "ci")], 1, "unset all but the one"),
        (
            &[url, ("KEYDESK_API_KEY", API_KEY), ("KEYDESK_SERVICE_ACCOUNT_FILE", "f")],
            1,
            "unset all but the one",
        ),
        (&[url, ("KEYDESK_API_KEY", API_KEY), ("KEYDESK_API_KEY_FILE", "both")], 1, "both set"),
        (&[url, ("KEYDESK_API_KEY_FILE", "nowhere")], 1, "KEYDESK_API_KEY_FILE"),
        (&[url, ("KEYDESK_SERVICE_ACCOUNT_FILE", "both")], 1, "service-account add --file"),
        (&[url, ("KEYDESK_API_KEY", "wrong-0123456789abcdef")], 3, "KEYDESK_API_KEY"),
        (&[url, ("KEYDESK_API_KEY", "two\nlines-0123456789abcdef")], 1, "the right text"),
        (&[url, ("KEYDESK_CLIENT_ID", "ci"), ("KEYDESK_CLIENT_SECRET", "wrong")], 3, "KEYDESK_CLIENT_SECRET"),
        (&[url, ("KEYDESK_API_KEY", API_KEY), ("KEYDESK_PROJECT", "no project")], 1, "KEYDESK_PROJECT"),
        (&[url, ("KEYDESK_API_KEY", API_KEY), ("KEYDESK_PROJECT", "elsewhere")], 4, "refuses"),
        (&[("KEYDESK_URL", "http://127.0.0.1:9"), ("KEYDESK_API_KEY", API_KEY)], 5, "cannot be reached"),
        (&[("KEYDESK_URL", "http://192.0.2.1"), ("KEYDESK_API_KEY", API_KEY)], 1, "https://"),
        (&[("KEYDESK_URL", "keydesk.example.com"), ("KEYDESK_API_KEY", API_KEY)], 1, "https://"),
        (&[("KEYDESK_URL", "https://a:b@127.0.0.1:9"), ("KEYDESK_API_KEY", API_KEY)], 1, "leave them out"),
    ];
    for (variables, code, told) in cases {
        let done = around.run(&["get", "openai"], variables, "");
        assert_eq!((done.code, done.stdout.as_str()), (*code, ""), "{variables:?}: {done:?}");
        assert!(done.stderr.contains(told) && done.stderr.lines().count() == 1, "{variables:?}: {done:?}");
        assert!(!done.stderr.contains("0123456789abcdef"), "{done:?}");
    }
    let file = [url, ("KEYDESK_API_KEY_FILE", "both")];
    assert_eq!(around.run(&["get", "openai"], &file, "").stdout, format!("{KEY}\n"));
    // What the environment says counts more than a profile, and a flag more than the environment.
    assert_eq!(around.log_in(&[]).code, 0);
    let key = [url, ("KEYDESK_API_KEY", API_KEY)];
    assert!(around.run(&["whoami"], &key, "").stdout.starts_with("default, service account"));
    assert!(around.run(&["whoami", "--profile", "work"], &key, "").stdout.starts_with("admin, user"));
    assert!(around.run(&["whoami"], &[url], "").stdout.starts_with("admin, user"));
    assert_eq!(around.run(&["get", "nobody"], &[], "").code, 4);
    assert_eq!(around.run(&["get", "no provider"], &[], "").code, 2);
}

#[test]
fn a_service_account_is_its_file() {
    let around = Around::new();
    around.desk.must(&["service-account", "add", "ci", "--project", "default", "--file", "sa.json"]);
    let file = around.desk.path("sa.json");
    let file = file.to_str().unwrap();
    let variables = [("KEYDESK_URL", around.server.url()), ("KEYDESK_SERVICE_ACCOUNT_FILE", file)];
    assert_eq!(around.run(&["get", "openai", "--raw"], &variables, "").stdout, KEY);
    let said =
        around.must(&["login", around.server.url(), "--profile", "ci", "--service-account-file", file]);
    assert_eq!(said, format!("profile ci: {file} at {}\n", around.server.url()));
    assert!(around.must(&["whoami"]).starts_with("ci, service account"));
    // The secret alone will do, too: then there is an access token.
    let made: serde_json::Value = serde_json::from_str(&read(&around.desk.path("sa.json"))).unwrap();
    let secret = serde_json::json!({"client_id": "ci", "client_secret": made["client_secret"]});
    fs::write(file, secret.to_string()).unwrap();
    assert_eq!(around.must(&["get", "openai"]), format!("{KEY}\n"));
    around.desk.must(&["service-account", "disable", "ci"]);
    let done = around.run(&["get", "openai"], &[], "");
    assert!(done.code == 3 && done.stderr.contains("shut"), "{done:?}");
}

#[test]
fn profiles_are_for_people_to_edit() {
    let around = Around::new();
    around.write_profiles(
        "# mine\n[profiles.other]\nurl = \"http://127.0.0.1:9\" # at home\nusername = \"bob\"\n",
    );
    assert_eq!(around.log_in(&["--project", "default"]).code, 0);
    let text = around.profiles();
    assert!(
        text.contains("# mine") && text.contains("# at home") && text.contains("default = \"work\""),
        "{text}"
    );
    assert!(around.must(&["status"]).contains("work (default)"));
    around.must(&["use", "other"]);
    assert!(around.must(&["status"]).contains("other (default)"));
    let unknown = around.run(&["use", "nobody"], &[], "");
    assert!(unknown.code == 3 && unknown.stderr.contains("there are: other, work"), "{unknown:?}");
    assert_eq!(around.run(&["get", "openai", "--profile", "nobody"], &[], "").code, 3);
    let done = around.run(
        &["login", "http://127.0.0.1:9", "--profile", "work", "--username", "a", "--password-stdin"],
        &[],
        "x",
    );
    assert!(done.code == 1 && done.stderr.contains("choose another name"), "{done:?}");
    for (text, told) in [
        ("[profiles.work]\nurl = \"u\"\n", "username or service_account_file"),
        ("[profiles.work]\nurl = \"u\"\nusername = \"a\"\npassword = \"sk-secret\"\n", "password"),
        ("[profiles.work]\nurl = \"u\"\nusername = \"a\"\noffline = \"8d\"\n", "7 days"),
        ("[profiles.work]\nurl = \"u\"\nusername = \"a\"\noffline = \"0s\"\n", "less than a minute"),
        ("[profiles.work]\nurl = sk-secret\n", "line 2"),
        ("default = \"nobody\"\n", "nobody"),
    ] {
        around.write_profiles(text);
        let done = around.run(&["get", "openai"], &[], "");
        assert!(
            done.code != 0 && done.stderr.contains(told) && !done.stderr.contains("sk-secret"),
            "{text}: {done:?}"
        );
    }
}

#[test]
fn a_wrong_password_and_an_ended_session_are_told_in_words() {
    let around = Around::new();
    let url = around.server.url();
    let wrong =
        around.run(&["login", url, "--username", "admin", "--password-stdin"], &[], "not the password");
    assert!(wrong.code == 3 && wrong.stderr.contains("the name or the password is wrong"), "{wrong:?}");
    assert_eq!(around.run(&["login", url, "--username", "admin"], &[], "").code, 2, "nobody to ask");
    assert_eq!(around.run(&["login", url, "--password-stdin"], &[], "x").code, 2, "nobody to ask");
    assert!(!around.home.path(".config").exists(), "nothing is made of a failed login");
    around.desk.must_with(
        &["user", "add", "alice", "--password-stdin", "--project", "default"],
        "alice has a long password",
    );
    let log_in = ["login", url, "--username", "alice", "--password-stdin", "--profile", "a"];
    let with = |password| around.run(&log_in, &[], password);
    assert_eq!(with("alice has a long password").code, 0);
    around.desk.must_with(&["user", "passwd", "alice", "--password-stdin"], "and now another one of hers");
    let again = format!("keydesk login {url} --profile a");
    let done = around.run(&["get", "openai"], &[], "");
    assert!(
        done.code == 3 && done.stderr.contains("the password was changed") && done.stderr.contains(&again),
        "{done:?}"
    );
    assert_eq!(with("and now another one of hers").code, 0);
    around.must(&["get", "openai"]);
    around.desk.must(&["user", "disable", "alice"]);
    let done = around.run(&["get", "openai"], &[], "");
    assert!(done.code == 3 && done.stderr.contains("account is shut"), "{done:?}");
}

#[test]
fn logging_out_works_with_the_desk_away() {
    let around = Around::new();
    assert_eq!(around.log_in(&[]).code, 0);
    let Around { server, home, .. } = around;
    assert_eq!(server.stop(), 0);
    let variables = [("HOME", home.path(""))];
    let variables = [("HOME", variables[0].1.to_str().unwrap())];
    let done = home.run_with(&["logout"], &variables, "");
    assert!(done.code == 5 && done.stderr.contains("forgotten here"), "{done:?}");
    assert_eq!(home.run_with(&["get", "openai"], &variables, "").code, 3);
}

#[test]
fn the_copy_is_used_while_the_desk_is_away_and_ends_when_it_says_no() {
    let around = Around::new();
    for age in ["8d", "0s", "1ns", "59s"] {
        assert_eq!(around.log_in(&["--offline", age]).code, 2, "{age}");
    }
    assert_eq!(around.log_in(&["--offline", "1d"]).code, 0);
    let state = around.home.path(".local/state/keydesk/work.offline");
    around.must(&["get", "openai"]);
    assert!(state.exists());
    let text = around.profiles();
    let away = || around.write_profiles(&text.replace(around.server.url(), "http://127.0.0.1:9"));
    away();
    let done = around.run(&["get", "openai"], &[], "");
    assert_eq!((done.code, done.stdout), (0, format!("{KEY}\n")));
    assert!(done.stderr.contains("is away; this is the copy of"), "{}", done.stderr);
    assert_eq!(around.run(&["get", "anthropic"], &[], "").code, 5, "it never was here");
    // Whoever no longer wants one has none, although it is there.
    let without = text.replace("offline = \"1day\"\n", "");
    around.write_profiles(&without.replace(around.server.url(), "http://127.0.0.1:9"));
    assert_eq!(around.run(&["get", "openai"], &[], "").code, 5);
    // A slip, or a session that is lost here, says nothing of what there is a copy of.
    around.write_profiles(&text);
    let session = around.home.path(".local/state/keydesk/work.session");
    for (arguments, code) in
        [(["get", "nobody", "--project", "default"], 4), (["get", "openai", "--project", "defualt"], 4)]
    {
        assert_eq!(around.run(&arguments, &[], "").code, code, "{arguments:?}");
    }
    fs::rename(&session, session.with_extension("elsewhere")).unwrap();
    assert_eq!(around.run(&["get", "openai"], &[], "").code, 3);
    fs::rename(session.with_extension("elsewhere"), &session).unwrap();
    away();
    assert_eq!(around.must(&["get", "openai"]), format!("{KEY}\n"));
    // A key that is no more is gone here, too, by whatever name of its project it was asked for, and the others stay.
    around.write_profiles(&text);
    around.desk.must_with(&["key", "set", "mistral"], "mistral-0123456789abcdef");
    let ends = |arguments: &[&str], code| around.run(arguments, &[], "").code == code;
    eventually("the new key is there", || ends(&["get", "mistral"], 0));
    around.must(&["get", "openai", "--project", "default"]);
    around.desk.must(&["key", "delete", "openai"]);
    eventually("the key is gone", || ends(&["get", "openai", "--project", "default"], 4));
    away();
    assert_eq!(around.run(&["get", "openai"], &[], "").code, 5);
    around.must(&["get", "mistral"]);
    // Whoever is not let in has nothing here any more.
    around.write_profiles(&text);
    around.desk.must_with(&["user", "passwd", "admin", "--password-stdin"], "and now another one of theirs");
    assert_eq!(around.run(&["get", "mistral"], &[], "").code, 3);
    assert!(!state.exists());
}

#[test]
fn a_key_that_ends_soon_is_not_printed() {
    let around = Around::new();
    let set = ["key", "set", "mistral", "--expires"];
    around.desk.must_with(&[&set[..], &["50s"]].concat(), "mistral-0123456789abcdef");
    assert_eq!(around.log_in(&["--offline", "1d"]).code, 0);
    let done = around.run(&["get", "mistral"], &[], "");
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(done.stderr.contains("less than a minute"), "{done:?}");
    around.desk.must_with(&[&set[..], &["1h"]].concat(), "mistral-123456789abcdef0");
    assert_eq!(around.must(&["get", "mistral"]), "mistral-123456789abcdef0\n");
}
