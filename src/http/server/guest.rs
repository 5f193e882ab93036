//! What a connection is doing, and since when: the one fact behind deadlines and the choice of who has to leave.
//!
//! A connection waits for its client (silent, in the middle of a header, idle between requests), takes in a body, is served,
//! or writes an answer. The pieces that see this happen ([`super::stream`], the connection's task, the edge) say so here.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::Instant,
};

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client may take from the first byte of a request to the end of its headers; a new connection, to begin.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept without a request.
const IDLE: Duration = Duration::from_mins(1);
/// How long a client may take to read an answer, or each [`PROGRESS`] of a long one.
const ANSWER: Duration = Duration::from_secs(30);
/// That many bytes written are progress: who takes them is not slow on purpose.
const PROGRESS: usize = 256 * 1024;
/// While it is served there is no deadline for the connection: the request has one.
const NONE: Duration = Duration::from_hours(1);
/// So long a client that sends a body or reads an answer is left alone even when somebody waits for its place.
const GRACE: Duration = Duration::from_millis(250);

/// How many bodies one connection may send at a time: HTTP/2 has many requests on one, and each body is kept in memory.
const BODIES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The TLS handshake.
    Handshake,
    /// A request is wanted, and what there is of it is not whole.
    Head,
    /// A request may come.
    Idle,
    /// Requests are under way.
    Busy,
    /// An answer is made and not yet with the operating system.
    Writing,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when it is in this phase.
    since: Instant,
    /// When it last began to wait for a complete request.
    waiting: Instant,
    /// Requests whose answers are not yet made, or not yet taken.
    open: usize,
    /// Those of them whose answers are made.
    made: usize,
    /// Since when made answers wait to be taken and none is: HTTP/2 has a client who opens no window for them.
    untaken: Option<Instant>,
    /// Those of them whose bodies are still coming.
    incomplete: usize,
    /// Bytes written since the last progress.
    written: usize,
    /// HTTP/2: bytes that come need not belong to a request.
    multiplexed: bool,
}

/// A connection, as the server sees it from outside.
#[derive(Debug)]
pub(in crate::http) struct Guest {
    /// The address it counts for.
    pub(super) source: IpAddr,
    state: Mutex<State>,
    dismissal: Notify,
    bodies: Semaphore,
}

impl Guest {
    /// Somebody who has just connected.
    pub(super) fn new(source: IpAddr) -> Self {
        let now = Instant::now();
        let state = State {
            phase: Phase::Handshake,
            since: now,
            waiting: now,
            open: 0,
            made: 0,
            untaken: None,
            incomplete: 0,
            written: 0,
            multiplexed: false,
        };
        Self { source, state: Mutex::new(state), dismissal: Notify::new(), bodies: Semaphore::new(BODIES) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The protocol is known, and the first request may come.
    pub(super) fn welcome(&self, multiplexed: bool) {
        let mut state = self.state();
        state.multiplexed = multiplexed;
        state.enter(Phase::Head);
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if state.phase == Phase::Idle && !state.multiplexed {
            state.enter(Phase::Head);
        }
    }

    /// Bytes were taken by the operating system.
    pub(super) fn wrote(&self, bytes: usize) {
        let mut state = self.state();
        state.written += bytes;
        if state.written >= PROGRESS {
            state.written = 0;
            state.since = Instant::now();
            state.waiting = state.since;
            state.untaken = state.untaken.map(|_| state.since);
        }
    }

    /// Everything that there was to write is with the operating system.
    pub(super) fn flushed(&self) {
        let mut state = self.state();
        if state.phase == Phase::Writing {
            state.enter(Phase::Idle);
            state.waiting = state.since;
        }
    }

    /// When its time is over, if nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let state = self.state();
        let allowed = match state.phase {
            Phase::Handshake => HANDSHAKE,
            Phase::Head => HEAD,
            Phase::Idle => IDLE,
            Phase::Busy => NONE,
            Phase::Writing => ANSWER,
        };
        let end = state.since + allowed;
        state.untaken.map_or(end, |since| end.min(since + ANSWER))
    }

    /// Whether a request is wanted and not yet whole.
    pub(super) fn is_beginning(&self) -> bool {
        self.state().phase == Phase::Head
    }

    /// Whether it has no complete request.
    pub(super) fn is_waiting(&self) -> bool {
        let state = self.state();
        match state.phase {
            Phase::Handshake | Phase::Head | Phase::Idle => true,
            Phase::Busy => state.open == state.incomplete,
            Phase::Writing => false,
        }
    }

    /// Since when it holds a place for nothing, if it does.
    pub(super) fn idle_since(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        let held = match state.phase {
            Phase::Handshake | Phase::Head | Phase::Idle => return Some(state.waiting),
            Phase::Busy if state.open - state.made > state.incomplete => None,
            Phase::Busy => {
                state.untaken.into_iter().chain((state.incomplete > 0).then_some(state.since)).min()
            }
            Phase::Writing => Some(state.since),
        };
        held.filter(|since| now.saturating_duration_since(*since) > GRACE)
    }

    /// Asks it to leave at once.
    pub(super) fn dismiss(&self) {
        self.dismissal.notify_one();
    }

    /// Completes when it has to leave.
    pub(super) async fn dismissed(&self) {
        self.dismissal.notified().await;
    }

    /// A request has come, but for its body.
    pub(super) fn request(self: &Arc<Self>) -> Open {
        let mut state = self.state();
        state.open += 1;
        if state.open == 1 {
            state.enter(Phase::Busy);
        }
        Open { guest: Arc::clone(self), made: false }
    }

    /// Waits until it is a body's turn to be read.
    pub(in crate::http) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.bodies.acquire().await.ok()
    }

    /// The body of a request is coming, until what is returned is dropped.
    pub(in crate::http) fn body(self: &Arc<Self>) -> Incomplete {
        let mut state = self.state();
        state.incomplete += 1;
        state.since = Instant::now();
        Incomplete(Arc::clone(self))
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
        self.written = 0;
    }
}

/// A request under way: dropped with the last of its answer.
#[derive(Debug)]
pub(super) struct Open {
    guest: Arc<Guest>,
    made: bool,
}

impl Open {
    /// Its answer is made, and for the client to take.
    pub(super) fn made(&mut self) {
        self.made = true;
        let mut state = self.guest.state();
        state.made += 1;
        state.untaken.get_or_insert_with(Instant::now);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.guest.state();
        state.open = state.open.saturating_sub(1);
        if self.made {
            state.made = state.made.saturating_sub(1);
            state.untaken = (state.made > 0).then(Instant::now);
        }
        if state.open == 0 {
            // HTTP/2 writes many answers into one another: there, what is not read in time ends as an idle connection.
            let next = if state.multiplexed { Phase::Idle } else { Phase::Writing };
            state.enter(next);
            state.waiting = state.since;
        }
    }
}

/// A body under way.
#[derive(Debug)]
pub(in crate::http) struct Incomplete(Arc<Guest>);

impl Drop for Incomplete {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.incomplete = state.incomplete.saturating_sub(1);
    }
}
