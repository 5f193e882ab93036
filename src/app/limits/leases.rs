//! The same quota on several servers: some requests at a time are taken out of it in the database, and then made without asking.
//!
//! So no quota is exceeded, however requests are spread over the servers, and one request in ten asks. What a server has taken
//! and does not use, a tenth at most, is lost to the others until it has come back by itself, and then to the server, too. Who is
//! refused is refused without asking again until there can be one more. The servers' clocks have to agree: as far as they do
//! not, one that is behind gives more.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{GENERATION, Spent, Subject};
use crate::{
    model::{Rate, Timestamp},
    store::{
        Store, StoreError,
        rate_limits::{self, Asked, Given},
    },
};

/// A server takes this part of a quota at once.
const PART: i64 = 10;

/// What has been taken of each subject's quota.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<Subject, Lease>>);

/// Requests that may be made without asking.
#[derive(Clone, Copy)]
struct Lease {
    left: i64,
    /// Up to when all that were given, to whomever, are spread.
    until: i64,
    /// Whether there was nothing to take.
    refused: bool,
    /// When it ends; after a refusal, from when on there may be more.
    end: i64,
}

impl Leases {
    /// A request of `subject`.
    pub(super) async fn spend(
        &self,
        store: &Store,
        name: &'static str,
        rate: Rate,
        subject: Subject,
        now: Timestamp,
    ) -> Result<Spent, StoreError> {
        if let Some(spent) = self.spend_here(name, rate, subject, now) {
            return Ok(spent);
        }
        let (interval, times) = (rate.interval(), i64::from(rate.times));
        let wanted = (times / PART).max(1);
        let asked = Asked { name, subject, now, interval, times, wanted };
        let given = rate_limits::take(&mut store.read().await?, asked).await?;
        self.add(rate, subject, now, given);
        // Nothing is left if others, who asked at the same time, have used it.
        let none = || Spent::new(name, rate, false, now.micros(), given.until);
        Ok(self.spend_here(name, rate, subject, now).unwrap_or_else(none))
    }

    /// The answer, if the database need not be asked.
    fn spend_here(&self, name: &'static str, rate: Rate, subject: Subject, now: Timestamp) -> Option<Spent> {
        let now = now.micros();
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let good = |lease: &&mut Lease| lease.is_good(rate, now) && (lease.left > 0 || lease.refused);
        let lease = leases.get_mut(&subject).filter(good)?;
        let allowed = lease.left > 0;
        lease.left -= i64::from(allowed);
        let unused = lease.left * rate.interval();
        Some(Spent::new(name, rate, allowed, now, lease.until.max(now + unused) - unused))
    }

    fn add(&self, rate: Rate, subject: Subject, now: Timestamp, given: Given) {
        let now = now.micros();
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() >= GENERATION && !leases.contains_key(&subject) {
            leases.clear();
        }
        let before =
            leases.get(&subject).filter(|lease| lease.is_good(rate, now)).map_or(0, |lease| lease.left);
        let left = before + given.granted;
        let (refused, whole) = (left == 0, rate.interval() * i64::from(rate.times));
        // After a refusal: when the even pace has room for one more.
        let end = if refused { given.until + rate.interval() - whole } else { given.until };
        leases.insert(subject, Lease { left, until: given.until, refused, end });
    }

    /// Forgets leases that have ended.
    pub(super) fn forget(&self, now: Timestamp) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, lease| lease.end > now.micros());
    }
}

impl Lease {
    /// Not if it has ended, or was made before the clock was set back.
    fn is_good(&self, rate: Rate, now: i64) -> bool {
        now < self.end && self.end <= now + rate.interval() * i64::from(rate.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn given(leases: &Leases, second: i64, granted: i64, until: i64) {
        let given = Given { granted, until: until * SECOND };
        leases.add("60/minute".parse().unwrap(), [1; 16], Timestamp::from_micros(second * SECOND), given);
    }

    /// Whether a request is allowed, and how many are left, without asking; `None` if it has to be asked.
    fn ask(leases: &Leases, second: i64) -> Option<(bool, i64, i64)> {
        let now = Timestamp::from_micros(second * SECOND);
        let spent = leases.spend_here("test", "60/minute".parse().unwrap(), [1; 16], now)?;
        Some((spent.allowed, spent.quota.remaining, spent.quota.seconds))
    }

    #[test]
    fn what_was_taken_is_spent_without_asking_until_it_has_come_back() {
        let leases = Leases::default();
        assert_eq!(ask(&leases, 1000), None);
        given(&leases, 1000, 3, 1003);
        assert_eq!(ask(&leases, 1000), Some((true, 59, 1)));
        assert_eq!(ask(&leases, 1000), Some((true, 58, 1)));
        given(&leases, 1000, 2, 1005);
        assert_eq!(ask(&leases, 1001), Some((true, 58, 1)), "two that are unused, and what others have left");
        assert_eq!((ask(&leases, 1001), ask(&leases, 1001)), (Some((true, 57, 1)), Some((true, 56, 1))));
        assert_eq!(ask(&leases, 1001), None, "all is used");
        given(&leases, 1001, 1, 1006);
        assert_eq!(ask(&leases, 1006), None, "all that was taken has come back");
        given(&leases, 1061, 1, 1062);
        assert_eq!(ask(&leases, 900), None, "after the clock was set back");
    }

    #[test]
    fn who_is_refused_is_not_asked_for_until_there_may_be_one_more() {
        let leases = Leases::default();
        given(&leases, 1000, 0, 1060);
        assert_eq!(ask(&leases, 1000), Some((false, 0, 1)));
        assert_eq!(ask(&leases, 1001), None);
    }
}
