//! Secrets from people: typed without echo, or from standard input. Never from an argument, which every process can read.

use std::io::{self, IsTerminal as _, Read as _};

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::{config::trim_newline, model::PrincipalName, secret::Secret};

/// More than any secret may have; what is longer is refused by its own rule.
const MAX_BYTES: u64 = 16 * 1024;

/// A new password for `name`: asked for twice, or read from standard input.
pub(super) fn new_password(name: &PrincipalName, from_stdin: bool) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        let password = ask(&format!("Password for {name}: "))?;
        let again = ask("The same again: ")?;
        return if same(&password, &again) {
            Ok(password)
        } else {
            Err(Failure::Failed("the two passwords are not the same; nothing was changed".to_owned()))
        };
    }
    if from_stdin {
        return read_stdin();
    }
    Err(Failure::Usage(
        "there is no terminal to ask for the password on; pipe it in and say --password-stdin".to_owned(),
    ))
}

/// A key: asked for, or read from standard input if that is not a terminal.
pub(super) fn key(what: &str) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() { ask(&format!("Key of {what}: ")) } else { read_stdin() }
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
