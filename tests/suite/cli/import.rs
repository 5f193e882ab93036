//! `keydesk import`: keys move from a dotenv file into a project, once.

use std::fs;

use serde_json::{Value, json};

use crate::support::{PASSWORD, Place};

const ADMIN: (&str, &str) = ("KEYDESK_ADMIN_PASSWORD", PASSWORD);
const OPENAI: &str = "sk-proj-CANARY0123456789";
const ANTHROPIC: &str = "sk-ant-api03-CANARY0123456789";
const GEMINI: &str = "AIzaSyCANARY'0123456789";

fn file() -> String {
    format!(
        "# keys\n\
         DATABASE_URL=postgres://CANARY@localhost/app\n\
         export OPENAI_API_KEY={OPENAI} # mine\n\
         ANTHROPIC_API_KEY='{ANTHROPIC}'\n\
         GOOGLE_API_KEY=AIzaSyCANARY-of-another-service\n\
         GEMINI_API_KEY=\"{GEMINI}\"\n\
         GROQ_API_KEY=your-api-key-here\n\
         MISTRAL_API_KEY=${{CANARY}}\n\
         sk-CANARY-all-by-itself\n"
    )
}

/// The lines of an answer as `line became version`.
fn became(answer: &Value) -> Vec<String> {
    let text =
        |line: &Value| format!("{} {} {}", line["line"], line["became"].as_str().unwrap(), line["version"]);
    answer["lines"].as_array().unwrap().iter().map(text).collect()
}

fn versions(place: &Place, project: &str) -> Vec<(String, i64)> {
    let listed = place.json(&["key", "list", "--project", project]);
    let row = |row: &Value| (row["provider"].as_str().unwrap().to_owned(), row["version"].as_i64().unwrap());
    listed.as_array().unwrap().iter().map(row).collect()
}

fn keys_set(place: &Place) -> usize {
    let arguments = ["audit", "list", "--action", "provider_key.set", "--limit", "100"];
    place.json(&arguments).as_array().unwrap().len()
}

#[test]
fn keys_that_differ_are_taken_and_of_the_others_it_is_said_why() {
    let place = Place::new();
    assert_eq!(place.serve(&[("OPENAI_API_KEY", OPENAI), ADMIN]).stop(), 0);
    fs::write(place.path(".env"), file()).unwrap();

    let trial = place.json(&["import", ".env", "--dry-run"]);
    assert_eq!((&trial["project"], &trial["dry_run"]), (&json!("default"), &json!(true)));
    let expected = [
        "2 left null",
        "3 unchanged 1",
        "4 taken 1",
        "5 repeated null",
        "6 taken 1",
        "7 left null",
        "8 left null",
        "9 left null",
    ];
    assert_eq!(became(&trial), expected);
    assert_eq!((versions(&place, "default").len(), keys_set(&place)), (1, 1), "a trial changes nothing");

    let told = place.must(&["import", ".env"]);
    assert!(
        told.contains("line 4 ANTHROPIC_API_KEY: anthropic is at version 1 in project default\n"),
        "{told}"
    );
    assert!(told.contains("line 7 GROQ_API_KEY: not taken: it is a placeholder, not a key\n"), "{told}");
    assert!(told.contains("delete lines 3, 4, 5, 6 from .env"), "{told}");
    assert!(!told.contains("CANARY"), "{told}");
    assert_eq!(keys_set(&place), 3, "each key that was taken is in the book");

    let again = place.json(&["import", ".env"]);
    assert_eq!(became(&again)[1..5], ["3 unchanged 1", "4 unchanged 1", "5 repeated null", "6 unchanged 1"]);
    assert_eq!(keys_set(&place), 3);

    // Written as it stands there, and under the project that was said.
    place.must(&["project", "add", "search"]);
    place.must(&["import", ".env", "--project", "search"]);
    let shown = |project: &str| {
        versions(&place, project).into_iter().map(|(provider, _)| provider).collect::<Vec<_>>()
    };
    assert_eq!(shown("search"), ["anthropic", "gemini", "openai"]);
    fs::write(place.path("new"), format!("GEMINI_API_KEY='{}'\n", GEMINI.replace('\'', "\\'"))).unwrap();
    assert_eq!(became(&place.json(&["import", "new", "--project", "search"])), ["1 unchanged 1"]);
    fs::write(place.path("new"), "GEMINI_API_KEY=AIzaSyCANARY-a-new-one\n").unwrap();
    assert_eq!(became(&place.json(&["import", "new", "--project", "search"])), ["1 taken 2"]);
}

#[test]
fn what_is_in_the_environment_of_the_server_counts_as_before() {
    let place = Place::new();
    let started = || assert_eq!(place.serve(&[("OPENAI_API_KEY", OPENAI), ADMIN]).stop(), 0);
    started();
    fs::write(place.path(".env"), "OPENAI_API_KEY=sk-proj-CANARY-a-newer-one\n").unwrap();
    place.must(&["import", ".env"]);
    started();
    assert_eq!(versions(&place, "default"), [("openai".to_owned(), 2)], "an old value does not come back");
}

#[test]
fn a_file_without_a_key_is_told() {
    let place = Place::with_desk();
    let fails = |text: &str, arguments: &[&str], line: &str| {
        fs::write(place.path("file"), text).unwrap();
        let done = place.run(&[&["import", "file"], arguments].concat());
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
        assert_eq!(done.stderr, format!("keydesk: {line}\n"));
    };
    fails("A=b\n", &[], "there is no provider's key in file");
    let placeholder = "there is no provider's key in file; line 1: it is a placeholder, not a key";
    fails("OPENAI_API_KEY=sk-your-api-key-here\n", &[], placeholder);
    fails(&file(), &["--project", "nowhere"], "there is no project nowhere");
    let done = place.run(&["import", "no-such-file"]);
    assert!(done.code == 1 && done.stderr.contains("cannot read no-such-file"), "{done:?}");
}
