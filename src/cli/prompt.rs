//! Secrets from people: typed without echo, or from standard input. Never from an argument, which every process can read.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::{
    model::PrincipalName,
    secret::{Secret, trim_newline},
};

/// More than any secret may have; what is longer is refused by its own rule.
const MAX_BYTES: u64 = 16 * 1024;

/// A new password for `name`: asked for twice, or read from standard input.
pub(super) fn new_password(name: &PrincipalName, from_stdin: bool) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return twice(&format!("Password for {name}: "));
    }
    if from_stdin { read_stdin() } else { Err(no_terminal()) }
}

/// The password that `name` has: asked for, or read from standard input if that is said.
pub(super) fn password(name: &PrincipalName, from_stdin: bool) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        return ask(&format!("Password of {name}: "));
    }
    if from_stdin { read_stdin() } else { Err(no_terminal()) }
}

fn no_terminal() -> Failure {
    Failure::Usage(
        "there is no terminal to ask for the password on; pipe it in and say --password-stdin".to_owned(),
    )
}

/// What is no secret: a line that is typed at a terminal; nothing if there is no terminal.
pub(super) fn line(question: &str) -> Result<Option<String>, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    let asked = write!(io::stderr(), "{question}").and_then(|()| io::stdin().read_line(&mut text));
    asked.map_err(|error| Failure::because("cannot read from the terminal", &error))?;
    Ok(Some(text.trim().to_owned()))
}

/// The password that `name` is going to have instead: asked for twice, always of a person.
pub(super) fn changed_password(name: &PrincipalName) -> Result<Secret, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Failed(format!(
            "{name} has to choose a new password, and there is no terminal to ask for it on"
        )));
    }
    twice(&format!("New password of {name}: "))
}

/// A key: asked for, or read from standard input if that is not a terminal.
pub(super) fn key(what: &str) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() { ask(&format!("Key of {what}: ")) } else { read_stdin() }
}

fn twice(question: &str) -> Result<Secret, Failure> {
    let password = ask(question)?;
    if same(&password, &ask("The same again: ")?) {
        return Ok(password);
    }
    Err(Failure::Failed("the two passwords are not the same; nothing was changed".to_owned()))
}

fn ask(question: &str) -> Result<Secret, Failure> {
    let typed = rpassword::prompt_password(question);
    typed.map(Secret::new).map_err(|error| Failure::because("cannot read from the terminal", &error))
}

fn read_stdin() -> Result<Secret, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    let read = io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| Failure::because("cannot read standard input", &error))?;
    trim_newline(&mut text);
    Ok(Secret::new(std::mem::take(&mut *text)))
}

#[expect(clippy::disallowed_methods, reason = "what was typed twice is compared")]
fn same(a: &Secret, b: &Secret) -> bool {
    a.expose() == b.expose()
}
