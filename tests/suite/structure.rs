//! The import rule: which part may name which. A picture in a document rots; this does not.

use std::{collections::BTreeSet, fs, path::Path};

use keydesk::model::Rule;

/// Each part of the crate, with the parts and the crates that it may name.
const RULES: &[(&str, &[&str], &[&str])] = &[
    ("model", &[], &["crc32fast", "serde", "serde_json", "thiserror", "time", "uuid", "zxcvbn", "ipnet"]),
    ("secret", &[], &["bytes", "serde", "zeroize"]),
    (
        "crypto",
        &["model", "secret", "metrics"],
        &[
            "argon2",
            "aws_lc_rs",
            "base64",
            "getrandom",
            "jsonwebtoken",
            "rustix",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
            "unicode_normalization",
            "zeroize",
        ],
    ),
    ("store", &["model"], &["serde", "serde_json", "sqlx", "thiserror", "tokio", "tracing"]),
    (
        "app",
        &["model", "secret", "crypto", "store", "metrics"],
        &["flate2", "quick_cache", "rustix", "serde", "serde_json", "thiserror", "tokio", "tracing"],
    ),
    (
        "http",
        &["model", "secret", "app", "metrics", "telemetry"],
        &[
            "base64",
            "flate2",
            "futures_util",
            "hyper",
            "hyper_util",
            "percent_encoding",
            "poem",
            "poem_openapi",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "serde_yaml",
            "thiserror",
            "tokio",
            "tokio_rustls",
            "tracing",
            "x509_parser",
            "zeroize",
        ],
    ),
    ("metrics", &[], &["prometheus_client"]),
    ("version", &[], &["serde"]),
    (
        "webhook",
        &["model", "secret", "crypto", "app"],
        &["reqwest", "serde_json", "thiserror", "tokio", "tracing"],
    ),
    (
        "client",
        &["model", "secret", "crypto"],
        &[
            "humantime",
            "percent_encoding",
            "reqwest",
            "rustix",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "toml",
            "toml_edit",
            "zbus",
            "zeroize",
        ],
    ),
    (
        "config",
        &["model", "secret", "crypto", "app", "client"],
        &["humantime", "thiserror", "toml", "zeroize"],
    ),
    (
        "telemetry",
        &["config"],
        &[
            "opentelemetry",
            "opentelemetry_otlp",
            "opentelemetry_sdk",
            "thiserror",
            "tokio",
            "tracing",
            "tracing_opentelemetry",
            "tracing_subscriber",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "secret",
            "crypto",
            "store",
            "app",
            "http",
            "webhook",
            "client",
            "metrics",
            "config",
            "telemetry",
            "version",
        ],
        &[
            "aho_corasick",
            "base64",
            "clap",
            "clap_complete",
            "clap_mangen",
            "comfy_table",
            "csv",
            "humantime",
            "indicatif",
            "percent_encoding",
            "rpassword",
            "rustix",
            "serde",
            "serde_json",
            "signal_hook",
            "time",
            "tokio",
            "tracing",
            "whoami",
            "zeroize",
        ],
    ),
];

const CRATES: &[&str] = &[
    "aho_corasick",
    "argon2",
    "aws_lc_rs",
    "base64",
    "bytes",
    "clap",
    "clap_complete",
    "clap_mangen",
    "comfy_table",
    "crc32fast",
    "csv",
    "futures_util",
    "flate2",
    "getrandom",
    "humantime",
    "hyper",
    "hyper_util",
    "indicatif",
    "jsonwebtoken",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "percent_encoding",
    "poem",
    "poem_openapi",
    "prometheus_client",
    "quick_cache",
    "reqwest",
    "rpassword",
    "rustix",
    "rustls",
    "serde",
    "serde_json",
    "serde_yaml",
    "signal_hook",
    "sqlx",
    "thiserror",
    "tokio",
    "tokio_rustls",
    "toml",
    "toml_edit",
    "tracing",
    "tracing_opentelemetry",
    "tracing_subscriber",
    "unicode_normalization",
    "ipnet",
    "uuid",
    "zxcvbn",
    "whoami",
    "x509_parser",
    "zbus",
    "zeroize",
];

fn sources(path: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

fn part(name: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    if root.join(name).is_dir() {
        sources(&root.join(name), &mut found);
    }
    if let Ok(text) = fs::read_to_string(root.join(format!("{name}.rs"))) {
        found.push((format!("{name}.rs"), text));
    }
    found
}

/// Code without comments and without the tests' part.
fn code(text: &str) -> String {
    let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The parts that `code` names: after `crate::`, or at the first level of `crate::{…}`.
fn named_parts(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let first_level = usize::from(rest.starts_with('{'));
        let mut depth = 0;
        for item in rest.split_inclusive([',', '{', '}', ';']) {
            if depth == first_level {
                found.insert(item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
            depth = match item.chars().last() {
                Some('{') => depth + 1,
                Some('}') => depth.saturating_sub(1),
                _ => depth,
            };
            if depth == 0 {
                break;
            }
        }
    }
    found.remove("");
    found
}

/// Whether `code` names the crate `word` at the start of a path.
fn names(code: &str, word: &str) -> bool {
    let before =
        |at: usize| code[..at].chars().last().is_none_or(|c| !(c.is_alphanumeric() || "_:".contains(c)));
    code.match_indices(&format!("{word}::")).any(|(at, _)| before(at))
}

#[test]
fn each_part_names_only_what_it_may() {
    let mut faults = Vec::new();
    for (name, parts, crates) in RULES {
        for (file, text) in part(name).iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
            let code = code(text);
            let others = named_parts(&code);
            for (other, ..) in RULES.iter().filter(|(other, ..)| other != name && !parts.contains(other)) {
                if others.contains(*other) {
                    faults.push(format!("{file} names {other}"));
                }
            }
            for other in CRATES.iter().filter(|other| !crates.contains(other)) {
                if names(&code, other) {
                    faults.push(format!("{file} names the crate {other}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The files at the root of the crate, which only tie the parts together.
const UNRULED: &[&str] = &["lib", "main"];

/// Crates without a rule: `time` is also the name of modules everywhere, and the allocator is named at the root alone.
const UNRULED_CRATES: &[&str] = &["time", "zeroizing_alloc"];

#[test]
fn no_part_and_no_crate_is_outside_the_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let ruled = RULES.iter().any(|(part, ..)| *part == name) || UNRULED.contains(&name.as_str());
        assert!(ruled, "src/{name} has no rule");
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = dependencies.lines().filter(|line| !line.starts_with('#') && line.contains(" = "));
    for name in lines.map(|line| line.split(" = ").next().unwrap().replace('-', "_")) {
        assert!(
            CRATES.contains(&name.as_str()) || UNRULED_CRATES.contains(&name.as_str()),
            "no rule says who may name {name}"
        );
    }
}

/// The README's table of settings says what the program says.
#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for key in keydesk::config::KEYS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}` |", key.name)));
        let row = row.unwrap_or_else(|| panic!("the README does not list {}", key.name));
        if let keydesk::config::keys::Default::Text(default) = key.default {
            assert!(row.contains(&format!("| `{default}` |")), "{row} should say {default}");
        }
    }
}

/// The table of alarms in the documentation names every rule, and nothing besides.
#[test]
fn the_documentation_lists_every_alarm() {
    assert_eq!(Rule::Test as usize + 1, Rule::ALL.len(), "the last of the rules; does ALL leave one out?");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| alarm | raised when |").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let listed: BTreeSet<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let rules = Rule::ALL.into_iter().filter(|rule| *rule != Rule::Test).map(Rule::as_str);
    assert_eq!(listed, rules.collect());
}

#[test]
fn the_rule_sees_every_way_of_naming_a_part() {
    let code = "use crate::{model::{Id, Scope},\n    store::Store, secret::Secret};\nfn f() { crate::http::serve(); }";
    assert_eq!(named_parts(code), ["http", "model", "secret", "store"].map(str::to_owned).into());
    assert!(
        names("use sqlx::query;", "sqlx") && names("{poem::Body}", "poem") && !names("a_poem::x", "poem")
    );
}

#[test]
fn files_stay_readable() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    for (file, text) in found {
        assert!(text.starts_with("//!"), "{file} does not say what it is for");
        assert!(text.lines().count() <= 450, "{file} is long: is there a second idea in it?");
    }
}
