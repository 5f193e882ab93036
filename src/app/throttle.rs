//! Against guessing: how often a password may be tried.
//!
//! Three counts, each kept in the database under a keyed digest, so that they survive a restart, hold across processes and
//! say nothing of who exists:
//!
//! - **user and source**: five failures are free, then the wait doubles from a second to fifteen minutes;
//! - **source**: thirty failures within five minutes close it for a quarter of an hour;
//! - **user**: from thirty failures within a quarter of an hour on, and from a hundred in a row on for an hour, only sources
//!   from which this user has logged in before may try. So a stranger cannot lock anybody out of their usual place, nor of what they already hold.
//!
//! An attempt is counted before the password is looked at and taken back when it was right, so that guesses made at the
//! same moment cannot outrun the count; attempts on the same user from the same source wait for each other. A name that
//! nobody has is counted like any other.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::OwnedMutexGuard;

use super::{App, Error};
use crate::{
    crypto::password::Place,
    metrics::TurnedAway,
    model::{Action, AuditEvent, Caller, Id, PrincipalKind, PrincipalName, Scope, Timestamp},
    store::{
        Connection, Tx,
        throttles::{self, Count},
    },
};

/// How failures of one subject are counted.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// How long failures are remembered; a failure begins the time anew if `sliding`.
    window: Duration,
    sliding: bool,
    /// How many are free.
    free: i64,
    /// Whether the subject closes as soon as the attempt is counted, or only when it has failed: many people behind one
    /// address may be logging in at the same moment.
    closes_at_once: bool,
    /// For how long the subject is closed after failure number `free + n`, counted from 0.
    closed_for: fn(i64) -> Duration,
}

const PAIR: Rule = Rule {
    window: Duration::from_mins(15),
    sliding: true,
    free: 5,
    closes_at_once: true,
    closed_for: |n| Duration::from_secs(1 << n.clamp(0, 10)).min(Duration::from_mins(15)),
};
const SOURCE: Rule = Rule {
    window: Duration::from_mins(5),
    sliding: false,
    free: 30,
    closes_at_once: false,
    closed_for: |_| Duration::from_mins(15),
};
const CLIENTS: Rule = Rule {
    window: Duration::from_mins(1),
    sliding: false,
    free: 20,
    closes_at_once: true,
    closed_for: |_| Duration::from_mins(1),
};
/// Never closed: it only decides whether unknown sources may try.
const ACCOUNT: Rule = Rule {
    window: Duration::from_mins(15),
    sliding: true,
    free: i64::MAX,
    closes_at_once: false,
    closed_for: |_| Duration::ZERO,
};
const ACCOUNT_LIMIT: i64 = 30;
/// Failures in a row, however slowly they come: NIST SP 800-63B allows no more than a hundred.
const STREAK: Rule = Rule { window: Duration::from_hours(30 * 24), ..ACCOUNT };
const STREAK_LIMIT: i64 = 100;
/// For how long after the last failure of such a row.
const STREAK_REST: Duration = Duration::from_hours(1);

/// For how long a source counts as known, and how many of them are remembered for a user.
const KNOWN_FOR: Duration = Duration::from_hours(30 * 24);
const KNOWN_SOURCES: i64 = 20;

/// Something whose failures are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    key: [u8; 32],
    rule: Rule,
}

/// An attempt that was let through, and counted as a failure until it turns out to be none.
pub(super) struct Attempt {
    pair: Subject,
    source: Subject,
    account: Subject,
    streak: Subject,
    source_mac: [u8; 32],
    place: Option<Place>,
    _turn: OwnedMutexGuard<()>,
}

impl Attempt {
    /// Its place in the queue for hashing.
    pub(super) fn take_place(&mut self) -> Result<Place, Error> {
        self.place.take().ok_or_else(|| Error::internal("an attempt hashes one password"))
    }
}

/// One turn per user and source within this process.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, key: [u8; 32]) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are forgotten, so that strangers' names do not pile up.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key).or_default())
        };
        turn.lock_owned().await
    }
}

impl Subject {
    fn of(app: &App, rule: Rule, kind: &str, name: &str) -> Self {
        Self { key: app.keyring.mac(kind, name.as_bytes()), rule }
    }

    /// Secrets of a client tried from a source.
    pub(super) fn clients(app: &App, client_id: &str, source: &str) -> Self {
        Self::of(app, CLIENTS, "throttle clients", &format!("{client_id} {}", network(source)))
    }

    /// The count after one more failure.
    fn failed(&self, before: Option<Count>, now: Timestamp) -> Count {
        let current = before.filter(|count| count.window_end > now);
        let failures = current.map_or(0, |count| count.failures) + 1;
        let window_end = match current {
            Some(count) if !self.rule.sliding => count.window_end,
            _ => now.plus(self.rule.window),
        };
        let blocked_until = if self.rule.closes_at_once {
            self.closed_until(failures, now)
        } else {
            current.map_or(Timestamp::from_micros(0), |count| count.blocked_until)
        };
        Count { failures, window_end, blocked_until }
    }

    /// Until when so many failures close it.
    fn closed_until(&self, failures: i64, now: Timestamp) -> Timestamp {
        match failures - self.rule.free {
            beyond @ 0.. => now.plus((self.rule.closed_for)(beyond)),
            _ => Timestamp::from_micros(0),
        }
    }
}

/// The part of an address that one guesser is taken to have: the whole of IPv4, the first 64 bits of IPv6.
fn network(source: &str) -> String {
    match source.parse() {
        Ok(IpAddr::V6(address)) => format!("{:?}", &address.segments()[..4]),
        _ => source.to_owned(),
    }
}

impl App {
    /// Lets a password attempt through, counted, or says when to come back. `user` is whom the name belongs to, if anybody.
    pub(super) async fn admit(
        &self,
        name: &PrincipalName,
        user: Option<Id>,
        event: &mut AuditEvent,
    ) -> Result<Attempt, Error> {
        let source = network(&event.source);
        let pair = Subject::of(self, PAIR, "throttle pair", &format!("{name} {source}"));
        let attempt = Attempt {
            pair,
            source: Subject::of(self, SOURCE, "throttle source", &source),
            account: Subject::of(self, ACCOUNT, "throttle account", name.as_str()),
            streak: Subject::of(self, STREAK, "throttle streak", name.as_str()),
            source_mac: self.keyring.mac("known source", source.as_bytes()),
            _turn: self.turns.take(pair.key).await,
            // Before the database is written to: a flood of attempts must not queue for the one writer.
            place: Some(self.passwords.reserve()?),
        };
        let mut db = self.store.read().await?;
        if let Some(until) = self.refused_until(&mut db, &attempt, user, self.now()).await? {
            return Err(event.because("throttled", self.too_many(until, self.now())));
        }
        drop(db);
        let mut tx = self.store.begin().await?;
        let now = self.now();
        if let Some(until) = self.refused_until(&mut tx, &attempt, user, now).await? {
            return Err(event.because("throttled", self.too_many(until, now)));
        }
        for subject in [attempt.pair, attempt.source, attempt.account, attempt.streak] {
            let before = throttles::find(&mut tx, subject.key).await?;
            throttles::put(&mut tx, subject.key, subject.failed(before, now)).await?;
        }
        tx.commit().await?;
        Ok(attempt)
    }

    async fn refused_until(
        &self,
        db: &mut Connection,
        attempt: &Attempt,
        user: Option<Id>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        for subject in [attempt.pair, attempt.source] {
            let count = throttles::find(db, subject.key).await?;
            if let Some(count) = count.filter(|count| count.blocked_until > now) {
                return Ok(Some(count.blocked_until));
            }
        }
        let account = throttles::find(db, attempt.account.key).await?.filter(|count| count.window_end > now);
        let streak = throttles::find(db, attempt.streak.key).await?;
        // The end of the window is the last failure and a month; the rest after it is an hour.
        let rests_until = streak.filter(|count| count.failures >= STREAK_LIMIT).map(|count| {
            let month = i64::try_from(STREAK.window.as_micros()).unwrap_or(0);
            Timestamp::from_micros(count.window_end.micros() - month).plus(STREAK_REST)
        });
        let flooded_until =
            account.filter(|count| count.failures >= ACCOUNT_LIMIT).map(|count| count.window_end);
        let Some(until) = flooded_until.max(rests_until).filter(|until| *until > now) else {
            return Ok(None);
        };
        let since = Timestamp::from_micros(now.micros() - i64::try_from(KNOWN_FOR.as_micros()).unwrap_or(0));
        let known = match user {
            Some(user) => throttles::is_known(db, user, attempt.source_mac, since).await?,
            None => false,
        };
        Ok((!known).then_some(until))
    }

    /// The password was right: its user and source begin anew, and the attempt no longer counts elsewhere.
    pub(super) async fn absolve(&self, tx: &mut Tx, attempt: &Attempt) -> Result<(), Error> {
        throttles::forget(tx, attempt.pair.key).await?;
        throttles::forget(tx, attempt.streak.key).await?;
        take_back(tx, attempt.source).await?;
        take_back(tx, attempt.account).await
    }

    /// Forgets the failures of a user, or of a name that nobody has. Needs `admin`.
    pub async fn unlock_user(&self, caller: &Caller, name: &PrincipalName) -> Result<(), Error> {
        let object = super::principals::object(PrincipalKind::User, name);
        let mut change = self.change(caller, Scope::Admin, Action::UserUnlock, object).await?;
        let result = async {
            for (rule, kind) in [(ACCOUNT, "throttle account"), (STREAK, "throttle streak")] {
                let subject = Subject::of(self, rule, kind, name.as_str());
                throttles::forget(&mut change, subject.key).await?;
            }
            Ok(())
        }
        .await;
        change.finish(result).await
    }

    /// The password was wrong, or nobody's: what does not close before that closes now.
    pub(super) async fn confirm_failure(&self, attempt: &Attempt) -> Result<(), Error> {
        let (source, now) = (attempt.source, self.now());
        let mut tx = self.store.begin().await?;
        if let Some(count) = throttles::find(&mut tx, source.key).await? {
            let blocked_until = source.closed_until(count.failures, now);
            throttles::put(&mut tx, source.key, Count { blocked_until, ..count }).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The password was not looked at: this one attempt does not count.
    pub(super) async fn take_back(&self, attempt: &Attempt) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        for subject in [attempt.pair, attempt.source, attempt.account, attempt.streak] {
            take_back(&mut tx, subject).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The user has logged in from there.
    pub(super) async fn remember_source(
        &self,
        tx: &mut Tx,
        user: Id,
        attempt: &Attempt,
    ) -> Result<(), Error> {
        Ok(throttles::remember(tx, user, attempt.source_mac, KNOWN_SOURCES, self.now()).await?)
    }

    /// Refuses while `subject` is closed.
    pub(super) async fn refuse_if_blocked(
        &self,
        subject: &Subject,
        event: &mut AuditEvent,
    ) -> Result<(), Error> {
        let count = throttles::find(&mut self.store.read().await?, subject.key).await?;
        let now = self.now();
        match count.filter(|count| count.blocked_until > now) {
            Some(count) => Err(event.because("throttled", self.too_many(count.blocked_until, now))),
            None => Ok(()),
        }
    }

    /// The refusal until `until`.
    fn too_many(&self, until: Timestamp, now: Timestamp) -> Error {
        self.metrics.turned_away(TurnedAway::Throttled);
        let micros = until.micros() - now.micros();
        Error::TooMany { retry_after: u64::try_from(micros.div_euclid(1_000_000) + 1).unwrap_or(1) }
    }

    /// One more failure of `subject`.
    pub(super) async fn count_failure(&self, subject: &Subject) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        let before = throttles::find(&mut tx, subject.key).await?;
        throttles::put(&mut tx, subject.key, subject.failed(before, self.now())).await?;
        Ok(tx.commit().await?)
    }
}

/// Takes one failure back, and the closure that it brought about.
async fn take_back(tx: &mut Tx, subject: Subject) -> Result<(), Error> {
    let Some(count) = throttles::find(tx, subject.key).await? else { return Ok(()) };
    let failures = (count.failures - 1).max(0);
    let blocked_until =
        if failures < subject.rule.free { Timestamp::from_micros(0) } else { count.blocked_until };
    Ok(throttles::put(tx, subject.key, Count { failures, blocked_until, ..count }).await?)
}
