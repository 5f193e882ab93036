//! What the desk remembers between requests: whose a credential is, and which keys it opens.
//!
//! Everything is remembered as of one revision of the database. Whatever decides access moves the revision in its own
//! transaction, and a new view is begun that knows nothing yet: there is nothing to invalidate, and nothing that could be
//! forgotten to be. That a key never leaves after the change that forbids it does not depend on this: the revision is
//! compared once more inside the transaction that writes the handover in the book.
//!
//! A view holds a bounded number of each. Of those who ask for the same at once, one looks and the others wait for what it
//! finds. Keys are plain in here, for a minute at most, and are wiped when they are dropped.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use quick_cache::{UnitWeighter, sync::Cache};
use tokio::{sync::Mutex, time::timeout};

use super::{
    App, Error,
    llm_keys::{self, HandedKey},
};
use crate::{
    metrics::Lookup,
    model::{CredentialKind, Granted, Id, Networks, Principal, Provider, ScopeSet, Timestamp, TokenDigest},
    secret::SecretBytes,
};

/// How many credentials a view knows.
const ASKERS: u64 = 32 * 1024;
/// How many sets of keys.
const HANDOUTS: u64 = 1024;
/// How many of each there is room for from the start.
const FEW: usize = 64;
/// How long a request waits for what it, or another one, looks up.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is known of the database at one revision.
#[derive(Debug)]
pub(super) struct View {
    pub(super) revision: i64,
    askers: Cache<TokenDigest, Arc<Asker>>,
    handouts: Cache<Entitlement, Arc<Handout>>,
}

/// The view of today.
#[derive(Debug)]
pub(super) struct Views {
    newest: RwLock<Arc<View>>,
    turn: Mutex<()>,
}

/// The owner of a credential that was good when it was looked up.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) principal: Principal,
    pub(super) grants: Arc<[Granted]>,
    /// What the credential allows, as far as the role does.
    pub(super) scopes: ScopeSet,
    pub(super) credential: CredentialKind,
    pub(super) client_id: Option<String>,
    /// From where the credential may be used, besides what holds for its owner.
    pub(super) sources: Networks,
    /// From when to when the credential is good.
    pub(super) good: Range<Timestamp>,
    /// The API key, and when it was last used, in microseconds.
    pub(super) used: Option<(Id, AtomicI64)>,
}

/// A project, and the providers that a grant on it is limited to.
type Entitlement = (Id, Option<BTreeSet<Provider>>);

/// The keys that an entitlement opens.
#[derive(Debug)]
pub struct Handout {
    /// The keys, by provider.
    pub keys: Vec<Arc<HandedKey>>,
    /// The providers whose keys do not open.
    pub(super) broken: Vec<Provider>,
    /// What the entity tags of the answer depend on.
    pub(super) digest: [u8; 32],
    /// The versions, for the book: `anthropic=1 openai=3`.
    pub(super) versions: String,
    body: OnceLock<SecretBytes>,
}

impl Views {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self { newest: RwLock::new(Arc::new(View::at(-1))), turn: Mutex::new(()) }
    }

    /// Forgets the keys themselves: who asks again has them opened again.
    pub(super) fn forget_keys(&self) {
        self.newest().handouts.clear();
    }

    fn newest(&self) -> Arc<View> {
        Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl View {
    fn at(revision: i64) -> Self {
        Self { revision, askers: cache(ASKERS), handouts: cache(HANDOUTS) }
    }
}

/// A cache of at most so many.
pub(super) fn cache<K: Eq + std::hash::Hash, V: Clone>(most: u64) -> Cache<K, V> {
    Cache::with_weighter(FEW, most, UnitWeighter)
}

impl App {
    /// The view of the newest revision that this process knows of.
    pub(super) async fn view(&self) -> Result<Arc<View>, Error> {
        let newest = self.views.newest();
        if newest.revision == self.store.revision() {
            return Ok(newest);
        }
        // Boxed, as all that is seldom waited for: a request has room in it for whatever it may wait for, and is moved with it.
        Box::pin(self.begin_view()).await
    }

    async fn begin_view(&self) -> Result<Arc<View>, Error> {
        let late = |_| Error::Unavailable("the database takes too long to tell what has changed".into());
        // For its turn and for what it then does: of those who wait, each tries in turn where it fails.
        timeout(PATIENCE, self.begin_view_in_turn()).await.map_err(late)?
    }

    async fn begin_view_in_turn(&self) -> Result<Arc<View>, Error> {
        let _turn = self.views.turn.lock().await;
        let (revision, newest) = (self.store.revision(), self.views.newest());
        if newest.revision == revision {
            return Ok(newest);
        }
        // First, or the view would come to know tokens that a key has signed which is void.
        self.load_signing_keys().await?;
        let view = Arc::new(View::at(revision));
        *self.views.newest.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        Ok(view)
    }

    /// The owner of the credential of that digest, looked up with `look` if the view does not know it, or knows that its time
    /// is over.
    pub(super) async fn asker<E: From<Error>, L: Future<Output = Result<Asker, E>>>(
        &self,
        view: &View,
        digest: TokenDigest,
        look: impl FnOnce() -> L,
    ) -> Result<Arc<Asker>, E> {
        let is_good = |asker: &Asker| asker.good.contains(&self.now());
        self.remembered(Lookup::Asker, &view.askers, &digest, is_good, look).await
    }

    /// The keys that a grant opens, looked up with `look` if the view does not know them, or knows that one has expired.
    pub(super) async fn handout<E: From<Error>, L: Future<Output = Result<Handout, E>>>(
        &self,
        view: &View,
        granted: &Granted,
        look: impl FnOnce() -> L,
    ) -> Result<Arc<Handout>, E> {
        let entitlement = (granted.project_id, granted.providers.clone());
        let is_good = |handout: &Handout| handout.is_good(self.now());
        self.remembered(Lookup::Handout, &view.handouts, &entitlement, is_good, look).await
    }

    /// What is remembered under `key` and still good, or is found now. Who has waited for another one's look has found it
    /// remembered.
    async fn remembered<
        K: Clone + Eq + std::hash::Hash,
        V,
        E: From<Error>,
        L: Future<Output = Result<V, E>>,
    >(
        &self,
        lookup: Lookup,
        cache: &Cache<K, Arc<V>>,
        key: &K,
        is_good: impl FnOnce(&V) -> bool,
        look: impl FnOnce() -> L,
    ) -> Result<Arc<V>, E> {
        if let Some(found) = cache.get(key) {
            if is_good(&found) {
                self.metrics.looked_up(lookup, true);
                return Ok(found);
            }
            cache.remove(key);
        }
        let mut looked = false;
        let look = async {
            looked = true;
            look().await.map(Arc::new)
        };
        let found = Box::pin(timeout(PATIENCE, cache.get_or_insert_async(key, look))).await;
        self.metrics.looked_up(lookup, !looked);
        // Where looking fails, each who waits would try in turn.
        found.unwrap_or_else(|_| {
            Err(Error::Unavailable("the database takes too long to answer".into()).into())
        })
    }
}

impl Asker {
    /// Whether this use of an API key is one to remember: the first for `precision`.
    pub(super) fn is_news(&self, now: Timestamp, precision: Duration) -> Option<Id> {
        let (id, last) = self.used.as_ref()?;
        let before = last.load(Ordering::Relaxed);
        let is_old = Timestamp::from_micros(before).plus(precision) <= now;
        let is_first =
            || last.compare_exchange(before, now.micros(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
        (is_old && is_first()).then_some(*id)
    }
}

impl Handout {
    pub(super) fn new(project: Id, keys: Vec<HandedKey>, broken: Vec<Provider>) -> Self {
        let versions: Vec<_> = keys.iter().map(HandedKey::to_string).collect();
        let digest = llm_keys::digest(project, &keys);
        let keys = keys.into_iter().map(Arc::new).collect();
        Self { keys, broken, digest, versions: versions.join(" "), body: OnceLock::new() }
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.keys.iter().all(|key| key.expires_at.is_none_or(|end| now < end))
    }

    /// The keys as they are sent: made by `render` for the first who gets them.
    pub fn body(&self, render: impl FnOnce(&[Arc<HandedKey>]) -> Vec<u8>) -> &SecretBytes {
        self.body.get_or_init(|| SecretBytes::new(render(&self.keys)))
    }
}
