//! Help and wrong usage.

use crate::support::Place;

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A summary that is wrapped goes on in a line that is indented further.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Every command that does something, as it is typed.
pub(crate) fn commands(place: &Place) -> Vec<String> {
    let (mut waiting, mut found) = (vec![Vec::<String>::new()], Vec::new());
    while let Some(path) = waiting.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let below = subcommands(&place.must(&arguments));
        if below.is_empty() {
            found.push(path.join(" "));
        }
        waiting.extend(below.into_iter().map(|name| path.iter().cloned().chain([name]).collect()));
    }
    found
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Place::new();
    let mut waiting = vec![Vec::<String>::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = place.must(&arguments);
        assert!(help.contains("\nExample"), "keydesk {path:?} has no example:\n{help}");
        for name in subcommands(&help) {
            waiting.push(path.iter().cloned().chain([name]).collect());
        }
        seen += 1;
    }
    assert!(seen > 35, "{seen} commands");
    assert!(place.names().is_empty(), "help makes nothing");
}

#[test]
fn the_version_is_told() {
    let short = format!("keydesk {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(Place::new().must(&["-V"]), short);
    let long = Place::new().must(&["--version"]);
    assert!(long.starts_with(&short) && long.contains("\ncommit:") && long.contains("\nengines: "), "{long}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::with_desk();
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["user"],
        &["user", "add"],
        &["user", "add", "two words"],
        &["user", "add", "bob", "--role", "king"],
        &["user", "add", "bob", "--password", "a secret is never an argument"],
        &["user", "add", "bob"],
        &["user", "passwd", "admin"],
        &["key", "set", "openai", "sk-a-secret-is-never-an-argument"],
        &["api-key", "add", "admin", "--expires", "soon"],
        &["api-key", "revoke", "not-an-id"],
        &["audit", "list", "--outcome", "fine"],
        &["audit", "list", "--action", "llm_keys.raed"],
        &["audit", "list", "--limit", "0"],
        &["audit", "list", "--since", "yesterday"],
        &["audit", "export", "--format", "xml"],
        &["audit", "verify", "--checkpoints"],
        &["serve", "--listen", "here"],
    ] {
        let done = place.run(arguments);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{arguments:?}: {done:?}");
        assert!(!done.stderr.is_empty());
    }
    let done = place.run(&["user", "add", "bob"]);
    assert!(done.stderr.contains("no terminal") && done.stderr.contains("--password-stdin"), "{done:?}");
}

#[test]
fn the_specification_and_completions_need_no_desk() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.must(&["completions", shell]).contains("keydesk"), "{shell}");
    }
    place.must(&["openapi"]);
    place.must(&["openapi", "--yaml"]);
    assert!(place.names().is_empty());
}

#[test]
fn without_a_desk_commands_say_where_they_looked_and_make_nothing() {
    let place = Place::new();
    for arguments in [&["user", "list"][..], &["key", "list"], &["audit", "list"], &["api-key", "list"]] {
        let done = place.run(arguments);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""));
        let line = format!("keydesk: there is no desk at {}", place.desk());
        assert!(done.stderr.starts_with(&line), "{done:?}");
        assert!(done.stderr.contains("keydesk serve") && done.stderr.lines().count() == 1, "{done:?}");
    }
    assert!(place.names().is_empty());
}
