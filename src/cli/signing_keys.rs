//! `keydesk signing-key`: the keys that sign access tokens.

use clap::Subcommand;

use super::{desk::Desk, failure::Failure, output};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List signing keys with their states
    #[command(after_help = "Example:\n  keydesk signing-key list")]
    List,
    /// Replace the signing key: the new one is published now, and signs in five minutes
    #[command(after_help = "Examples:
  keydesk signing-key rotate
  keydesk signing-key rotate --emergency    # everything that was signed before is void at once")]
    Rotate {
        /// The present key is compromised: sign with the new one at once, and accept nothing signed before
        #[arg(long)]
        emergency: bool,
    },
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<(), Failure> {
    let Desk { app, caller, out } = desk;
    match command {
        Command::List => {
            let keys = app.signing_keys(caller).await?;
            out.list(&keys, ["kid", "algorithm", "state", "signs from (utc)"], |key| {
                let signs_from = output::minute(key.activates_at);
                [key.kid.clone(), key.algorithm.clone(), key.state.to_owned(), signs_from]
            })
        }
        Command::Rotate { emergency } => {
            let key = app.rotate_signing_key(caller, emergency).await?;
            let from = output::second(key.activates_at);
            out.object(
                &key,
                format_args!("signing key {} is published and signs from {from} UTC on", key.kid),
            )
        }
    }
}
