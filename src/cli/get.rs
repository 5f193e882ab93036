//! `keydesk get`: one key, for programs that call a command for it.
//!
//! A newline follows the key, as after `gh auth token`, `op read` and `vault kv get -field`: a shell's `$(…)` takes it off, a
//! terminal's prompt stays where it belongs, and whoever wants the bytes alone says `--raw`.

use std::io::{self, Write as _};

use clap::Args;
use zeroize::Zeroizing;

use super::{
    failure::Failure,
    output::Output,
    yours::{Whose, is_a_copy},
};
use crate::model::{ProjectName, Provider};

pub(super) const HELP: &str = "Examples:
  keydesk get openai
  export ANTHROPIC_API_KEY=\"$(keydesk get anthropic --project search)\"
  KEYDESK_URL=https://keydesk.example.com KEYDESK_API_KEY_FILE=key keydesk get openai --raw

Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  log in again: no session or credential, or one that the desk does not accept
  4  not granted, or no such provider
  5  the desk cannot be reached or is busy: try again";

#[derive(Debug, Args)]
pub(super) struct Get {
    /// The provider, for example `openai`
    provider: Provider,
    /// The project, instead of `KEYDESK_PROJECT` or the profile's
    #[arg(long)]
    project: Option<ProjectName>,
    /// Without a newline at the end
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    whose: Whose,
}

impl Get {
    #[expect(clippy::disallowed_methods, reason = "the key is printed for who asked for it")]
    pub(super) async fn run(self, out: Output) -> Result<(), Failure> {
        let client = self.whose.client()?;
        let key = client.key(self.project.as_ref(), &self.provider).await?;
        is_a_copy(&client, key.copied_at);
        if out.is_json() {
            return out.object(&key.opened(), "");
        }
        let end = if self.raw { "" } else { "\n" };
        let text = Zeroizing::new([key.key.expose(), end].concat());
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }
}
