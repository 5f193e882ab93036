//! Password hashing: argon2id on threads of its own, behind a bounded queue.
//!
//! A hash takes tens of milliseconds and 19 MiB. On the runtime's threads it would stall every other request, and without
//! a bound a flood of logins would take all memory. So a few threads at the lowest priority hash one password at a time,
//! and when the queue is full the caller is told at once to come back later. Key reads never wait for any of it.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::Instrument as _;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::{
    metrics::{Metrics, Present, TurnedAway},
    model::{Entropy, entropy},
    secret::Secret,
};

/// Memory in KiB, passes and lanes (OWASP's first choice for argon2id).
const PARAMETERS: (u32, u32, u32) = (19_456, 2, 1);
/// A stored hash that asks for more than this is refused: a poisoned row must not stop the desk.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 10;
const MAX_LANES: u32 = 8;
/// How many passwords may wait.
const QUEUE: usize = 32;

/// The pool of hashing threads. Dropping it ends them.
#[derive(Clone)]
pub struct PasswordPool {
    queue: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    entropy: Arc<dyn Entropy>,
    metrics: Metrics,
}

/// What became of a password that was shown.
#[derive(PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is right, and its hash was made with other parameters than today's: store this one instead.
    RightButOutdated(String),
    /// It is wrong, or there is no such hash.
    Wrong,
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Right => "Right",
            Self::RightButOutdated(_) => "RightButOutdated([redacted])",
            Self::Wrong => "Wrong",
        })
    }
}

/// Why a password could not be hashed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full: try again later.
    #[error("too many passwords are waiting to be checked")]
    Full,
    /// The pool has stopped, or hashing failed.
    #[error("password hashing is not available")]
    Broken,
}

/// A place in the queue, held until the password has been hashed.
#[derive(Debug)]
#[expect(dead_code, reason = "given back when it is dropped")]
pub struct Place(OwnedSemaphorePermit, Present);

struct Job {
    password: Secret,
    salt: [u8; 16],
    work: Work,
    submitted: Instant,
    _place: Place,
}

enum Work {
    Hash(oneshot::Sender<Option<String>>),
    Verify(Option<String>, oneshot::Sender<Verdict>),
}

impl Work {
    /// Whether nobody waits for the answer any more: the client has gone.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Hash(reply) => reply.is_closed(),
            Self::Verify(_, reply) => reply.is_closed(),
        }
    }
}

impl std::fmt::Debug for PasswordPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordPool")
    }
}

impl PasswordPool {
    /// Starts the threads: one fewer than the processor has cores, at least one.
    pub fn start(entropy: Arc<dyn Entropy>, metrics: Metrics) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1));
        for _ in 0..threads {
            let (jobs, metrics) = (Arc::clone(&jobs), metrics.clone());
            thread::Builder::new().name("password".to_owned()).spawn(move || work(&jobs, &metrics))?;
        }
        Ok(Self { queue, places: Arc::new(Semaphore::new(QUEUE)), entropy, metrics })
    }

    /// A place in the queue, if there is one: asked for before anything else is done for a password.
    pub fn reserve(&self) -> Result<Place, PoolError> {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.turned_away(TurnedAway::Busy);
            return Err(PoolError::Full);
        };
        Ok(Place(permit, self.metrics.password_waits()))
    }

    /// The hash under which `password` is stored, as a PHC string.
    pub async fn hash(&self, password: Secret) -> Result<String, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(self.reserve()?, password, Work::Hash(reply))?;
        answer.instrument(tracing::info_span!("password.hash")).await.ok().flatten().ok_or(PoolError::Broken)
    }

    /// Compares `password` with a `stored` PHC string. Without one (no such user, or one without a password) the same
    /// work is done against nothing, so that the answer takes as long.
    pub async fn verify(
        &self,
        place: Place,
        password: Secret,
        stored: Option<String>,
    ) -> Result<Verdict, PoolError> {
        let (reply, answer) = oneshot::channel();
        self.submit(place, password, Work::Verify(stored, reply))?;
        answer.instrument(tracing::info_span!("password.verify")).await.map_err(|_| PoolError::Broken)
    }

    fn submit(&self, place: Place, password: Secret, work: Work) -> Result<(), PoolError> {
        let salt = entropy::random(&*self.entropy);
        let job = Job { password, salt, work, submitted: Instant::now(), _place: place };
        self.queue.send(job).map_err(|_| PoolError::Broken)
    }
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, metrics: &Metrics) {
    // Nice 19: hashing takes what key reads leave. Not allowed in some sandboxes, and then it is only less polite.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { password, salt, work, submitted, _place }) = job else { return };
        if work.is_abandoned() {
            continue;
        }
        let (waited, begun) = (submitted.elapsed(), Instant::now());
        let measure = || metrics.password_hashed(waited, begun.elapsed());
        match work {
            Work::Hash(reply) => {
                let hash = hash(&password, salt);
                measure();
                drop(reply.send(hash));
            }
            Work::Verify(stored, reply) => {
                let verdict = verify(&password, stored.as_deref(), salt);
                measure();
                drop(reply.send(verdict));
            }
        }
    }
}

/// Whether two texts are one password.
pub fn are_same(a: &Secret, b: &Secret) -> bool {
    normalise(a) == normalise(b)
}

/// NFKC, so that one password typed on two keyboards is one password (NIST SP 800-63B §5.1.1.2).
#[expect(clippy::disallowed_methods, reason = "the password becomes its hash, or is judged before it does")]
pub fn normalise(password: &Secret) -> Zeroizing<String> {
    Zeroizing::new(password.expose().nfkc().collect())
}

fn hasher() -> Option<Argon2<'static>> {
    let (memory, passes, lanes) = PARAMETERS;
    let parameters = Params::new(memory, passes, lanes, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters))
}

fn hash(password: &Secret, salt: [u8; 16]) -> Option<String> {
    let hash = hasher()?.hash_password_with_salt(normalise(password).as_bytes(), &salt).ok()?;
    Some(hash.to_string())
}

fn verify(password: &Secret, stored: Option<&str>, salt: [u8; 16]) -> Verdict {
    let Some(stored) = stored.and_then(|text| PasswordHash::new(text).ok()) else {
        let _ = hash(password, salt);
        return Verdict::Wrong;
    };
    let Ok(parameters) = Params::try_from(&stored) else { return Verdict::Wrong };
    if parameters.m_cost() > MAX_MEMORY_KIB
        || parameters.t_cost() > MAX_PASSES
        || parameters.p_cost() > MAX_LANES
    {
        return Verdict::Wrong;
    }
    let matches = hasher()
        .is_some_and(|argon2| argon2.verify_password(normalise(password).as_bytes(), &stored).is_ok());
    let current = (parameters.m_cost(), parameters.t_cost(), parameters.p_cost()) == PARAMETERS
        && stored.algorithm.as_str() == Algorithm::Argon2id.as_str();
    match (matches, current) {
        (false, _) => Verdict::Wrong,
        (true, true) => Verdict::Right,
        (true, false) => hash(password, salt).map_or(Verdict::Right, Verdict::RightButOutdated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SystemEntropy;

    fn pool() -> PasswordPool {
        PasswordPool::start(Arc::new(SystemEntropy), Metrics::new()).unwrap()
    }

    #[tokio::test]
    async fn a_hash_names_its_parameters_and_verifies() {
        let hash = pool().hash(Secret::new("correct horse battery staple")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let verify = |password: &str| pool_verify(password.to_owned(), Some(hash.clone()));
        assert_eq!(verify("correct horse battery staple").await, Verdict::Right);
        assert_eq!(verify("correct horse battery stapl").await, Verdict::Wrong);
        assert_eq!(verify("correct horse battery staple\0").await, Verdict::Wrong);
    }

    async fn pool_verify(password: String, stored: Option<String>) -> Verdict {
        let pool = pool();
        pool.verify(pool.reserve().unwrap(), Secret::new(password), stored).await.unwrap()
    }

    #[tokio::test]
    async fn composed_and_decomposed_letters_are_one_password() {
        let hash = pool().hash(Secret::new("caf\u{e9} caf\u{e9} caf\u{e9}")).await.unwrap();
        assert_eq!(
            pool_verify("cafe\u{301} cafe\u{301} cafe\u{301}".to_owned(), Some(hash)).await,
            Verdict::Right
        );
    }

    #[tokio::test]
    async fn an_old_hash_is_renewed_and_a_poisoned_one_is_refused_at_once() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let old =
            weak.hash_password_with_salt(b"correct horse battery staple", &[1; 16]).unwrap().to_string();
        let Verdict::RightButOutdated(renewed) =
            pool_verify("correct horse battery staple".to_owned(), Some(old.clone())).await
        else {
            panic!("the hash was not renewed")
        };
        assert!(renewed.contains("m=19456,t=2,p=1"));
        let poisoned = old.replace("m=8,t=1", "m=4000000,t=90");
        assert_eq!(
            pool_verify("correct horse battery staple".to_owned(), Some(poisoned)).await,
            Verdict::Wrong
        );
    }

    #[tokio::test]
    async fn a_full_queue_says_so_at_once() {
        let pool = pool();
        let waiting: Vec<_> = (0..QUEUE * 4)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let place = pool.reserve()?;
                    pool.verify(place, Secret::new("whatever it may be"), None).await
                })
            })
            .collect();
        let mut answers = Vec::new();
        for task in waiting {
            answers.push(task.await.unwrap());
        }
        assert!(answers.contains(&Err(PoolError::Full)));
        assert!(answers.contains(&Ok(Verdict::Wrong)));
    }
}
