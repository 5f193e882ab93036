//! Rules over the state of the desk: the disk, the clock, what is about to expire.

use std::time::Duration;

use crate::{
    app::{App, Error, disk::Disk},
    model::{Alarm, Rule, Timestamp},
    store::provider_keys,
};

/// What share of the disk must be free: one in so many.
const FREE_SHARE: u64 = 10;
/// How far the clock may drift between two looks.
const DRIFT: Duration = Duration::from_mins(5);
/// How long before its end something is about to expire.
const SOON: Duration = Duration::from_hours(14 * 24);

/// The disk is nearly full.
pub(super) fn disk_space(Disk { size, free }: Disk) -> Option<Alarm> {
    let percent = free.saturating_mul(100).checked_div(size)?;
    let scarce = free < size / FREE_SHARE;
    let summary = format!("{percent} % of the disk of the data directory are free ({} MB)", free / 1_000_000);
    scarce.then(|| Alarm::new(Rule::DiskSpace, "disk", summary))
}

/// The clock was set: between two looks it went otherwise than the one that nobody can set.
pub(super) fn clock_jump(before: Timestamp, now: Timestamp, elapsed: Duration) -> Option<Alarm> {
    let expected = before.plus(elapsed);
    let jump = Duration::from_micros(now.micros().abs_diff(expected.micros()));
    let direction = if now > expected { "forward" } else { "back" };
    let minutes = (jump.as_secs() + 30) / 60;
    let summary = format!("the clock went {direction} by {minutes} minutes, to {now}");
    (jump > DRIFT).then(|| Alarm::new(Rule::ClockJump, "clock", summary))
}

impl App {
    /// What is about to expire.
    pub(super) async fn expiring(&self) -> Result<Vec<Alarm>, Error> {
        let now = self.now();
        let mut db = self.store.read().await?;
        let keys = provider_keys::expiring(&mut db, now.plus(SOON)).await?;
        let alarm = |(project, provider, at)| {
            let subject = format!("provider_key:{project}/{provider}");
            let summary = format!("the key of {provider} in project {project} {}", expires(at, now));
            Alarm::new(Rule::ProviderKeyExpiry, subject, summary)
        };
        let mut found: Vec<_> = keys.into_iter().map(alarm).collect();
        if let Some(at) = self.certificate_expires_at().filter(|at| *at < now.plus(SOON)) {
            let summary = format!("the certificate of the server {}", expires(at, now));
            found.push(Alarm::new(Rule::CertificateExpiry, "certificate", summary));
        }
        Ok(found)
    }
}

fn expires(at: Timestamp, now: Timestamp) -> String {
    let verb = if at <= now { "expired" } else { "expires" };
    let days = now.seconds().abs_diff(at.seconds()) / 86_400;
    let when = if at <= now { format!("{days} days ago") } else { format!("in {days} days") };
    format!("{verb} {when}, at {at}")
}
