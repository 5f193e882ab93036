//! How often somebody may ask.
//!
//! Each limit is a generic cell rate algorithm: of one subject it stores one moment, up to which its requests are spread at
//! the even pace, and refuses what would spread them further than one whole quota ahead. So a quota can be used at once or
//! evenly, comes back bit by bit, and no window has an edge at which twice as much fits.
//!
//! The moments are kept in memory, of a bounded number of subjects: when there are too many, the half that has not been
//! seen for longest begins anew, which is what a subject that never asked would have. The algorithm is ours because
//! `governor`'s grows with the number of subjects, and shuts everybody out for an hour when the clock is set back by one.
//! Where several servers share a database, the moments are kept there.

mod leases;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, OnceLock, PoisonError},
};

use leases::Leases;

use super::{App, Error};
use crate::{
    metrics::TurnedAway,
    model::{Action, AuditEvent, Caller, Id, Origin, Rate, Timestamp, network},
    store::Store,
};

/// How often a refused stranger is written down alone, and how often all of them together; the others are counted.
const STRANGER: Rate = Rate::per_minute(60);
const STRANGERS: Rate = Rate::per_minute(600);
/// Of so many subjects the moments are kept, twice.
const GENERATION: usize = 32 * 1024;

/// What an operator decides about how often somebody may ask; `None` is as often as they like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Key reads of a principal.
    pub keys: Option<Rate>,
    /// Requests for tokens, and for their revocation, from a source.
    pub token: Option<Rate>,
    /// Questions about tokens by a client.
    pub introspect: Option<Rate>,
}

/// What is left of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of which limit.
    pub limit: &'static str,
    /// The whole.
    pub rate: Rate,
    /// How many requests are left.
    pub remaining: i64,
    /// In how many seconds there is one more.
    pub seconds: i64,
}

/// What the limits said of a request, for the head of its answer.
#[derive(Debug, Default)]
pub struct Meter(OnceLock<Quota>);

impl Meter {
    /// What is left, if the request was subject to a limit.
    pub fn quota(&self) -> Option<Quota> {
        self.0.get().copied()
    }
}

/// The limits at work.
pub(super) struct Limiters {
    keys: Limiter,
    token: Limiter,
    introspect: Limiter,
    stranger: Limiter,
    strangers: Limiter,
}

impl Limiters {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            keys: Limiter::new("keys", limits.keys),
            token: Limiter::new("token", limits.token),
            introspect: Limiter::new("introspect", limits.introspect),
            stranger: Limiter::new("stranger", Some(STRANGER)),
            strangers: Limiter::new("strangers", Some(STRANGERS)),
        }
    }

    /// Whether a refusal of somebody unknown at `source` is still one to be written down alone.
    pub(super) fn note_stranger(&self, source: &str, now: Timestamp) -> bool {
        let allowed = |spent: Option<Spent>| spent.is_none_or(|spent| spent.allowed);
        allowed(self.stranger.spend(subject(source), now))
            && allowed(self.strangers.spend(Subject::default(), now))
    }

    /// Forgets subjects whose quota is whole again.
    pub(super) fn forget(&self, now: Timestamp) {
        for limiter in [&self.keys, &self.token, &self.introspect, &self.stranger, &self.strangers] {
            limiter.forget(now);
        }
    }
}

impl App {
    /// One key read by a caller.
    pub async fn spend_key_read(&self, caller: &Caller, meter: &Meter) -> Result<(), Error> {
        let Some(id) = caller.own_id() else { return Ok(()) };
        let event = || AuditEvent::by(caller, Action::LlmKeysRead);
        self.spend(&self.limits.keys, *id.as_bytes(), meter, event).await
    }

    /// One request for a token, or for the end of one, by whomever.
    pub async fn spend_token_request(
        &self,
        origin: &Origin,
        action: Action,
        meter: &Meter,
    ) -> Result<(), Error> {
        let event = || AuditEvent::anonymous(origin, action);
        self.spend(&self.limits.token, subject(&origin.source), meter, event).await
    }

    /// One question about a token by `asker`.
    pub(super) async fn spend_introspection(
        &self,
        asker: Id,
        meter: &Meter,
        event: &AuditEvent,
    ) -> Result<(), Error> {
        self.spend(&self.limits.introspect, *asker.as_bytes(), meter, || event.clone()).await
    }

    async fn spend(
        &self,
        limiter: &Limiter,
        subject: Subject,
        meter: &Meter,
        event: impl FnOnce() -> AuditEvent,
    ) -> Result<(), Error> {
        let spent = if self.store.is_shared() {
            Box::pin(limiter.spend_shared(&self.store, subject, self.now())).await?
        } else {
            limiter.spend(subject, self.now())
        };
        let Some(spent) = spent else { return Ok(()) };
        let _ = meter.0.set(spent.quota);
        if spent.allowed {
            return Ok(());
        }
        self.metrics.turned_away(TurnedAway::RateLimited);
        self.shed.count(event().denied("rate_limited"));
        Err(Error::RateLimited { retry_after: spent.quota.seconds.unsigned_abs() })
    }
}

/// Whose requests are counted together: a principal, or a source.
type Subject = [u8; 16];

fn subject(source: &str) -> Subject {
    match source.parse().map(network::one_source) {
        Ok(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
        Ok(IpAddr::V6(address)) => address.octets(),
        Err(_) => Subject::default(),
    }
}

/// A request as a limit sees it.
struct Spent {
    allowed: bool,
    quota: Quota,
}

impl Spent {
    /// With the requests of its subject spread up to `until`.
    fn new(limit: &'static str, rate: Rate, allowed: bool, now: i64, until: i64) -> Self {
        let interval = rate.interval();
        let left = (now + interval * i64::from(rate.times) - until).max(0);
        let remaining = left.div_euclid(interval);
        let wait = (remaining + 1) * interval - left;
        let seconds = (wait + 999_999).div_euclid(1_000_000);
        Self { allowed, quota: Quota { limit, rate, remaining, seconds } }
    }
}

/// One limit, and how far each subject has used its quota.
struct Limiter {
    name: &'static str,
    rate: Option<Rate>,
    spread: Mutex<Spread>,
    leases: Leases,
}

/// Up to when the requests of each subject are spread.
#[derive(Default)]
struct Spread {
    recent: HashMap<Subject, i64>,
    older: HashMap<Subject, i64>,
    /// When `recent` was begun.
    begun: i64,
}

impl Limiter {
    fn new(name: &'static str, rate: Option<Rate>) -> Self {
        Self { name, rate, spread: Mutex::default(), leases: Leases::default() }
    }

    /// A request of `subject`; `None` if there is no limit.
    fn spend(&self, subject: Subject, now: Timestamp) -> Option<Spent> {
        let (rate, now) = (self.rate?, now.micros());
        let (interval, whole) = (rate.interval(), rate.interval() * i64::from(rate.times));
        let mut spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        // Never further than a whole quota ahead, even if the clock was set back.
        let before = spread.take(subject, now).clamp(now, now + whole);
        let allowed = before + interval <= now + whole;
        let after = if allowed { before + interval } else { before };
        spread.put(subject, after, now);
        drop(spread);
        Some(Spent::new(self.name, rate, allowed, now, after))
    }

    /// The same where others spend, too.
    async fn spend_shared(
        &self,
        store: &Store,
        subject: Subject,
        now: Timestamp,
    ) -> Result<Option<Spent>, Error> {
        let Some(rate) = self.rate else { return Ok(None) };
        Ok(Some(self.leases.spend(store, self.name, rate, subject, now).await?))
    }

    fn forget(&self, now: Timestamp) {
        let Some(rate) = self.rate else { return };
        self.leases.forget(now);
        let mut spread = self.spread.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was last seen a whole quota ago has a whole quota.
        let age = now.micros() - spread.begun;
        if age < 0 || age >= rate.interval() * i64::from(rate.times) {
            spread.turn(now.micros());
        }
    }
}

impl Spread {
    fn take(&mut self, subject: Subject, now: i64) -> i64 {
        self.recent.get(&subject).copied().or_else(|| self.older.remove(&subject)).unwrap_or(now)
    }

    fn put(&mut self, subject: Subject, until: i64, now: i64) {
        if self.recent.len() >= GENERATION && !self.recent.contains_key(&subject) {
            self.turn(now);
        }
        self.recent.insert(subject, until);
    }

    /// Begins a new generation; the oldest is forgotten.
    fn turn(&mut self, now: i64) {
        self.older = std::mem::take(&mut self.recent);
        self.begun = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn limiter(rate: &str) -> Limiter {
        Limiter::new("test", Some(rate.parse().unwrap()))
    }

    /// Whether a request at `micros` is allowed, what remains, and for how long one waits for more.
    fn ask(limiter: &Limiter, who: u8, micros: i64) -> (bool, i64, i64) {
        let spent = limiter.spend([who; 16], Timestamp::from_micros(micros)).unwrap();
        (spent.allowed, spent.quota.remaining, spent.quota.seconds)
    }

    #[test]
    fn a_quota_can_be_used_at_once_and_comes_back_evenly() {
        let limiter = limiter("3/minute");
        let start = 1_800_000_000 * SECOND;
        for (second, expected) in [
            (0, (true, 2, 20)),
            (0, (true, 1, 20)),
            (5, (true, 0, 15)),
            (6, (false, 0, 14)),
            (19, (false, 0, 1)),
            (20, (true, 0, 20)),
            (21, (false, 0, 19)),
            (80, (true, 2, 20)),
        ] {
            assert_eq!(ask(&limiter, 1, start + second * SECOND), expected, "at {second} s");
        }
        assert_eq!(ask(&limiter, 2, start), (true, 2, 20), "somebody else");
    }

    #[test]
    fn a_clock_that_is_set_back_shuts_nobody_out_for_long() {
        let limiter = limiter("60/minute");
        let (before, after) = (2_000_000_000 * SECOND, 1_000_000_000 * SECOND);
        for _ in 0..60 {
            assert!(ask(&limiter, 1, before).0);
        }
        assert_eq!(ask(&limiter, 1, after), (false, 0, 1));
        assert_eq!(ask(&limiter, 1, after + SECOND), (true, 0, 1));
        limiter.forget(Timestamp::from_micros(after));
    }

    #[test]
    fn a_million_subjects_are_not_remembered() {
        let limiter = limiter("60/minute");
        let busy = [0xff; 16];
        for _ in 0..60 {
            limiter.spend(busy, Timestamp::from_micros(0));
        }
        for number in 0..1_000_000_u128 {
            limiter.spend(number.to_be_bytes(), Timestamp::from_micros(0));
            if number.is_multiple_of(1000) {
                let refused = limiter.spend(busy, Timestamp::from_micros(0)).unwrap();
                assert!(!refused.allowed, "who keeps asking is remembered, at {number}");
            }
        }
        let spread = limiter.spread.lock().unwrap();
        assert!(spread.recent.capacity() + spread.older.capacity() < 4 * GENERATION);
    }

    #[test]
    fn who_is_quiet_is_forgotten() {
        let limiter = limiter("60/minute");
        let known = || {
            let spread = limiter.spread.lock().unwrap();
            spread.recent.len() + spread.older.len()
        };
        ask(&limiter, 1, 0);
        for minute in 1..=2 {
            assert_eq!(known(), 1);
            limiter.forget(Timestamp::from_micros(minute * 60 * SECOND));
        }
        assert_eq!(known(), 0);
    }

    #[test]
    fn a_subject_is_a_source() {
        assert_eq!(subject("192.0.2.1"), subject("::ffff:192.0.2.1"));
        assert_eq!(subject("2001:db8::1"), subject("2001:db8::ffff:1"));
        assert_ne!(subject("2001:db8::1"), subject("192.0.2.1"));
    }
}
