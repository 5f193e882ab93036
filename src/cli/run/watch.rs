//! Asks the desk again and again whether the command still has the keys it should have.
//!
//! - A key that the command was given has changed: it is started again with the new one. Others do not concern it.
//! - The desk cannot be reached, or has no time: the command goes on with what it has, for as long as that takes.
//! - The desk says no: the login has ended, the principal is disabled, a grant is taken away. It cannot be told whether that is
//!   meant or a mistake, and the command has the keys already; so it is said at once, and there is a minute to put it right (a
//!   `keydesk login` elsewhere is enough) before the command is stopped. Whoever wants it otherwise says `--stop-after`.
//!
//! Stopping a command makes nothing unknown that it has known. Where that matters the key has to be rotated at its provider.

use std::{
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use super::{StopAfter, supervise::Event, terminal::say};
use crate::{
    cli::variables::{self, Given},
    client::{Client, Etag, Handed, Keys, Kind},
    model::{ProjectName, Provider},
};

/// Somebody who asks.
pub(super) struct Watch {
    pub(super) client: Client,
    pub(super) project: Option<ProjectName>,
    pub(super) etag: Option<Etag>,
    /// What the command has.
    pub(super) given: Vec<Given>,
    pub(super) interval: Duration,
    pub(super) stop_after: StopAfter,
}

/// How it stood at the last answer.
enum Standing {
    Well,
    Away,
    /// Since when.
    Refused(Instant),
}

impl Watch {
    /// Asks for as long as somebody listens.
    pub(super) fn begin(self, runtime: tokio::runtime::Runtime, events: Sender<Event>) {
        thread::spawn(move || self.run(&runtime, &events));
    }

    fn run(mut self, runtime: &tokio::runtime::Runtime, events: &Sender<Event>) {
        let mut standing = Standing::Well;
        // What is refused although there is an answer.
        let mut withdrawn = None;
        loop {
            thread::sleep(self.interval);
            let answer = runtime.block_on(self.client.keys(self.project.as_ref(), self.etag.as_ref()));
            let refused = match answer {
                Ok(Keys::Unchanged) => withdrawn.clone(),
                Ok(Keys::Handed(Handed { copied_at: Some(_), .. })) => {
                    away(&mut standing, "the desk is away");
                    continue;
                }
                Ok(Keys::Handed(Handed { keys, etag, .. })) => {
                    self.etag = etag;
                    match variables::select(keys, &self.providers()) {
                        Ok(given) => {
                            withdrawn = None;
                            if let Some(event) = self.changed(given)
                                && events.send(event).is_err()
                            {
                                return;
                            }
                        }
                        Err(why) => withdrawn = Some(why.what),
                    }
                    withdrawn.clone()
                }
                Err(error) if matches!(error.kind, Kind::LogIn | Kind::Refused) => Some(error.what),
                Err(error) => {
                    away(&mut standing, &error.what);
                    continue;
                }
            };
            standing = match refused {
                None => well(&standing),
                Some(why) => match self.refused(&standing, &why) {
                    Ok(standing) => standing,
                    Err(stop) => {
                        let _ = events.send(stop);
                        return;
                    }
                },
            };
        }
    }

    fn providers(&self) -> Vec<Provider> {
        self.given.iter().map(|given| given.provider.clone()).collect()
    }

    /// What has become of the command's keys, if anything.
    #[expect(clippy::disallowed_methods, reason = "the new key is compared with the old one")]
    fn changed(&mut self, given: Vec<Given>) -> Option<Event> {
        let had = |new: &Given| self.given.iter().any(|old| old.key.expose() == new.key.expose());
        let changed: Vec<_> = given.iter().filter(|new| !had(new)).map(|new| new.provider.as_str()).collect();
        if changed.is_empty() {
            return None;
        }
        let (keys, have) = if changed.len() == 1 { ("key", "has") } else { ("keys", "have") };
        say(&format!("the {} {keys} {have} changed: the command is started again", changed.join(", ")));
        self.given.clone_from(&given);
        Some(Event::Again(given))
    }

    /// How it stands after a refusal; or that it has been long enough.
    fn refused(&self, standing: &Standing, why: &str) -> Result<Standing, Event> {
        if let (Standing::Refused(since), StopAfter(after)) = (standing, self.stop_after) {
            return match after {
                Some(after) if since.elapsed() >= after => {
                    Err(Event::Stop(format!("{why}; the command is stopped")))
                }
                _ => Ok(Standing::Refused(*since)),
            };
        }
        match self.stop_after {
            StopAfter(Some(after)) => {
                let after = humantime::format_duration(after);
                say(&format!("{why}; the command is stopped in {after} unless that is put right"));
            }
            StopAfter(None) => say(&format!("{why}; the command goes on with the keys it has")),
        }
        Ok(Standing::Refused(Instant::now()))
    }
}

/// The desk is away, which is said once. A refusal from before still stands.
fn away(standing: &mut Standing, why: &str) {
    if matches!(standing, Standing::Well) {
        say(&format!("{why}; the command goes on with the keys it has"));
        *standing = Standing::Away;
    }
}

fn well(before: &Standing) -> Standing {
    match before {
        Standing::Well => {}
        Standing::Away => say("the desk answers again"),
        Standing::Refused(_) => say("the desk hands out the keys again"),
    }
    Standing::Well
}
