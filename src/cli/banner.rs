//! What `serve` prints when it serves: what was made and imported, where it is, and how to fetch a first key.

use std::{
    env,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    thread,
};

use zeroize::Zeroizing;

use super::failure::one_line;
use crate::{
    app::{desk::Location, import::Imported},
    config::Config,
    secret::Secret,
};

/// Where the first admin's password is.
#[derive(Debug)]
pub(super) enum AdminPassword {
    /// With the operator, who chose it.
    Given,
    /// Nowhere but here: it is shown on the terminal that is standard output.
    Stdout(Secret),
    /// The same, for standard error.
    Stderr(Secret),
    /// In this file.
    File(PathBuf),
}

impl AdminPassword {
    /// To be shown on the terminal, or given back if there is none.
    pub(super) fn on_terminal(password: Secret) -> Result<Self, Secret> {
        if io::stdout().is_terminal() {
            Ok(Self::Stdout(password))
        } else if io::stderr().is_terminal() {
            Ok(Self::Stderr(password))
        } else {
            Err(password)
        }
    }
}

/// What there is to say.
pub(super) struct Banner<'a> {
    pub(super) config: &'a Config,
    pub(super) location: &'a Location,
    pub(super) address: SocketAddr,
    pub(super) issuer: &'a str,
    /// Only after the first start.
    pub(super) admin: Option<AdminPassword>,
    pub(super) imported: &'a [Imported],
}

impl Banner<'_> {
    /// Prints it from a thread of its own: a terminal or pipe that nobody reads must not keep the server from serving.
    pub(super) fn print(&self) {
        let out = self.text();
        let err = match &self.admin {
            Some(AdminPassword::Stderr(password)) => password_line(password),
            _ => Zeroizing::default(),
        };
        let write = move || {
            let _ = io::stderr().write_all(err.as_bytes());
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
        };
        // Without a thread nothing is said, and the server serves all the same.
        let _ = thread::Builder::new().name("banner".to_owned()).spawn(write);
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(4096));
        if let Some(admin) = &self.admin {
            self.first_start(&mut text, admin);
        }
        if !self.imported.is_empty() {
            text.push_str("Imported:\n");
            for Imported { variable, became } in self.imported {
                let _ = writeln!(text, "  {variable}: {became}");
            }
            text.push('\n');
        }
        let (issuer, address) = (self.issuer, self.address);
        let _ = writeln!(text, "Keydesk {} serves {issuer}", env!("CARGO_PKG_VERSION"));
        if self.config.public_url.is_some() {
            let _ = writeln!(text, "Listening on:      {address}");
        }
        let _ = writeln!(text, "API documentation: {issuer}/docs\n");
        self.first_key(&mut text);
        text
    }

    fn first_start(&self, text: &mut String, admin: &AdminPassword) {
        let path = |path: &std::path::Path| one_line(&path.display().to_string());
        let (database, kek) =
            (one_line(&self.location.database.to_string()), path(&self.location.kek.current));
        let _ = writeln!(text, "A new desk is made: project default, user admin.");
        let _ = writeln!(text, "  Database:           {database}");
        let _ = writeln!(text, "  Key-encryption key: {kek}");
        let _ = writeln!(
            text,
            "                      Keep a copy elsewhere: without it the database cannot be opened."
        );
        match admin {
            AdminPassword::Given => text.push_str("  Admin password:     the one you gave\n"),
            AdminPassword::Stdout(password) => text.push_str(&password_line(password)),
            AdminPassword::Stderr(_) => {}
            AdminPassword::File(file) => {
                let _ = writeln!(
                    text,
                    "  Admin password:     in {}; delete the file when you have it",
                    path(file)
                );
            }
        }
        text.push('\n');
    }

    /// Neither password nor token appears among the arguments of a process that others could list, but for the token,
    /// which dies in minutes.
    fn first_key(&self, text: &mut String) {
        let (issuer, keydesk) = (self.issuer, program());
        let _ = if self.config.password_enabled {
            writeln!(
                text,
                "A first key:\n  \
                 {keydesk} login '{issuer}' --username admin\n  \
                 {keydesk} get openai\n\n\
                 Or with nothing but curl, with the admin's password in $KEYDESK_ADMIN_PASSWORD:\n  \
                 TOKEN=$(printf %s \"$KEYDESK_ADMIN_PASSWORD\" | curl -sS '{issuer}/token' -d grant_type=password \
                 --data-urlencode 'username=admin' --data-urlencode password@- | \
                 sed 's/.*\"access_token\": *\"\\([^\"]*\\)\".*/\\1/')\n  \
                 curl -sS '{issuer}/llm-keys' -H \"Authorization: Bearer $TOKEN\""
            )
        } else {
            writeln!(
                text,
                "A first key: make a service account with `keydesk service-account add NAME --project default`,\n  \
                 and put its token into $TOKEN:\n  \
                 curl -sS '{issuer}/llm-keys' -H \"Authorization: Bearer $TOKEN\""
            )
        };
    }
}

/// What this program was called as, since it may not be where a shell looks for it.
fn program() -> String {
    let called = env::args().next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !called.is_empty() && called.chars().all(plain) { called } else { env!("CARGO_PKG_NAME").to_owned() }
}

#[expect(clippy::disallowed_methods, reason = "the generated password is shown once, on a terminal")]
fn password_line(password: &Secret) -> Zeroizing<String> {
    let shown = format!("  Admin password:     {}   (shown this once)\n", password.expose());
    Zeroizing::new(shown)
}
