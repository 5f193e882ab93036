//! How many connections there are at a time, and who makes room.
//!
//! When every place is taken, a newcomer gets that of the connection which has waited longest without a complete request.
//! Clients that hold connections for nothing therefore cost each other their places, and an honest client, whose request
//! is there within moments, does not notice them, even if it shares their address. Only when all are really being served
//! does a newcomer wait, or, if they are all of its own address, have to go.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::guest::Guest;
use crate::model::network;

/// How often a newcomer looks again for somebody to replace.
const AGAIN: Duration = Duration::from_millis(20);

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    size: usize,
    per_source: usize,
    guests: Mutex<Vec<Arc<Guest>>>,
}

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) guest: Arc<Guest>,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(size: usize, per_source: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(size));
        Arc::new(Self { free, size, per_source, guests: Mutex::new(Vec::new()) })
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Arc<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a newcomer, or none if too many from there are being served. `limited` says whether its address counts.
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr, limited: bool) -> Option<Place> {
        let source = network::one_source(address);
        if limited {
            let from_there = self.guests().iter().filter(|guest| guest.source == source).count();
            if from_there >= self.per_source && !self.dismiss(|guest| guest.source == source) {
                return None;
            }
        }
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            self.dismiss(|_| true);
            if let Ok(Ok(permit)) = tokio::time::timeout(AGAIN, Arc::clone(&self.free).acquire_owned()).await
            {
                break permit;
            }
        };
        let guest = Arc::new(Guest::new(source));
        self.guests().push(Arc::clone(&guest));
        Some(Place { guest, places: Arc::clone(self), _permit: permit })
    }

    /// Asks one of `those` to leave, the one that has waited longest; false if all are being served.
    pub(super) fn dismiss(&self, those: impl Fn(&Guest) -> bool) -> bool {
        let now = Instant::now();
        let mut guests = self.guests();
        let waiting = guests.iter().enumerate().filter(|(_, guest)| those(guest));
        let waiting = waiting.filter_map(|(at, guest)| Some((guest.idle_since(now)?, at)));
        let Some((_, at)) = waiting.min() else { return false };
        // Out of the list at once, so that it does not count any more and is not asked twice.
        guests.swap_remove(at).dismiss();
        true
    }

    /// Completes when everybody has left.
    pub(super) async fn empty(&self) {
        let all = u32::try_from(self.size).unwrap_or(u32::MAX);
        let _ = self.free.acquire_many(all).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.places.guests();
        if let Some(at) = guests.iter().position(|guest| Arc::ptr_eq(guest, &self.guest)) {
            guests.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[tokio::test]
    async fn one_source_has_so_many_places_and_only_who_is_served_keeps_one() {
        let places = Places::new(10, 2);
        let first = places.take(HERE, true).await.unwrap();
        let second = places.take(HERE, true).await.unwrap();
        let _elsewhere = places.take(THERE, true).await.unwrap();
        let _third = places.take(HERE, true).await.unwrap();
        first.guest.dismissed().await;
        drop(first);
        let _served = second.guest.request();
        let _fourth = places.take(HERE, true).await.unwrap();
        let guests: Vec<_> = places.guests().iter().filter(|guest| guest.source == HERE).cloned().collect();
        assert_eq!(guests.len(), 2);
        let _all_are_served: Vec<_> = guests.iter().map(Guest::request).collect();
        assert!(places.take(HERE, true).await.is_none(), "nobody of theirs can make room");
        assert!(places.take(HERE, false).await.is_some(), "a trusted proxy speaks for many");
        assert!(places.take(THERE, true).await.is_some());
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_who_has_waited_longest() {
        let places = Places::new(2, 10);
        let served = places.take(HERE, true).await.unwrap();
        let _request = served.guest.request();
        let waiting = places.take(HERE, true).await.unwrap();
        let newcomer = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(THERE, true).await.unwrap() }
        });
        waiting.guest.dismissed().await;
        assert!(!newcomer.is_finished(), "it waits until the other has left");
        drop(waiting);
        assert_eq!(newcomer.await.unwrap().guest.source, THERE);
        drop(served);
        places.empty().await;
    }
}
