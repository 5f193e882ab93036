//! `keydesk kek`: the key-encryption key, and how another takes its place.

use clap::Subcommand;
use serde::Serialize;

use super::{
    desk::{self, Desk},
    failure::Failure,
    output::{Output, hint},
};
use crate::{
    app::{
        desk::{Database, Location},
        kek::{Finished, Rotation},
    },
    config::Config,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the key-encryption keys, how many data keys each of them wraps, and what to do next
    #[command(after_help = "Example:\n  keydesk kek status --json")]
    Status,
    /// Put a new key-encryption key in the place of the old one, on one machine, while the desk works
    #[command(after_help = "Examples:
  keydesk kek rotate
  KEYDESK_KEK__FILE=/etc/keydesk/kek keydesk --data-dir /var/lib/keydesk kek rotate

The file in kek.file gets a new key, the data keys in the database are wrapped by it, and the old key is put aside beside it,
for backups that are older. A server that runs notices nothing. Interrupted at any point, even by kill -9 or a power cut, the
desk opens as before; run the command again, and it goes on.

With several machines, put both files on every machine first, and let the servers do the rest: see \"Replacing the
key-encryption key\" in docs/operations.md. Provider keys are sealed by data keys, which stay what they are.")]
    Rotate,
}

pub(super) async fn run(config: &Config, out: Output, command: Command) -> Result<(), Failure> {
    let location = desk::location(config);
    match command {
        Command::Status => status(&location, out).await,
        Command::Rotate => {
            let rotation = location.begin_kek_rotation(&desk::surroundings()).await?;
            hint(if rotation.resumed {
                "A rotation is under way already: going on with it."
            } else {
                "The new key-encryption key is in place, and the old one is still there."
            });
            let desk = Desk::open(config, out).await?;
            let anchors = !location.is_served().await;
            let result = rotate(&desk, &location, rotation).await;
            desk.leave(anchors).await;
            result
        }
    }
}

async fn status(location: &Location, out: Output) -> Result<(), Failure> {
    let status = location.kek_status().await?;
    if out.is_json() {
        return out.object(&status, "");
    }
    out.list(&status.keks, ["kek", "id", "data keys", "file", "problem"], |kek| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let (id, file) = (or_dash(&kek.id), or_dash(&kek.file));
        [kek.role.to_owned(), id, kek.data_keys.to_string(), file, or_dash(&kek.problem)]
    })?;
    if status.damaged > 0 {
        out.done(format_args!("\n{} data keys are damaged.", status.damaged))?;
    }
    out.done(format_args!("\n{}", status.advice))
}

/// What a rotation has done.
#[derive(Serialize)]
struct Rotated {
    kek_file: String,
    old_kek_file: String,
    data_keys_wrapped: usize,
}

async fn rotate(desk: &Desk, location: &Location, rotation: Rotation) -> Result<(), Failure> {
    let wrapped = desk.app.rewrap_data_keys(&desk.caller).await?;
    let finished = rotation.finish(location).await?;
    hint(format_args!("Every data key is wrapped by the new key; {wrapped} of them were wrapped just now."));
    let (path, advice) = match finished {
        Finished::Aside(path) => (path, "backups from before need it; when they are gone, remove it"),
        Finished::Stays(path) => {
            (path, "remove kek.previous_file from the configuration; backups from before need the file")
        }
    };
    let new = location.kek.current.display();
    let elsewhere = match location.database {
        Database::File(_) => "",
        Database::Server(_) => {
            "\nOther machines of this desk need the new file before a server is started there again."
        }
    };
    let rotated = Rotated {
        kek_file: new.to_string(),
        old_kek_file: path.display().to_string(),
        data_keys_wrapped: wrapped,
    };
    desk.out.object(
        &rotated,
        format_args!(
            "The new key-encryption key is {new}. Keep a copy elsewhere: without it the database cannot be opened.\n\
             The old one is {}: {advice}.{elsewhere}",
            path.display()
        ),
    )
}
