//! A copy of the keys for when the desk is away, where somebody has asked for one.
//!
//! It is sealed like the session, is renewed with each key that is handed over, and ages: it is used up to the age that the
//! profile says, never beyond a key's own end, and only if the desk cannot be reached or is not well. A desk that knows the
//! credential no more ends it, and one that refuses a key or a project ends that part; what goes wrong here, or is said by
//! somebody else who answers in the desk's place, does not. The book has a line for each key when it was fetched, and none for each time it is handed out from here.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    error::Error,
    keys::{Handed, LlmKey, OpenedKey},
    state::State,
};
use crate::{
    crypto,
    model::{Clock as _, Provider, SystemClock, Timestamp},
    secret::Secret,
};

/// The copy of one principal's keys.
#[derive(Debug)]
pub(super) struct Offline {
    state: State,
    file: String,
    max_age: Duration,
}

/// By project as it was asked for; nobody has said which under the empty name.
type Projects = BTreeMap<String, Copied>;

#[derive(Default, Deserialize)]
struct Copied {
    /// Each with the moment since when it is here.
    keys: Vec<LlmKey>,
    /// All there were at that moment.
    all: Option<(Timestamp, Vec<String>)>,
}

#[derive(Serialize)]
struct Opened<'a> {
    keys: Vec<OpenedKey<'a>>,
    all: &'a Option<(Timestamp, Vec<String>)>,
}

impl Offline {
    pub(super) fn new(state: State, name: &str, max_age: Duration) -> Self {
        Self { state, file: format!("{name}.offline"), max_age }
    }

    /// Keeps a key that has just been handed over.
    pub(super) fn keep(&self, project: &str, mut key: LlmKey) -> Result<(), Error> {
        let mut projects = self.read();
        let copied = projects.entry(project.to_owned()).or_default();
        let now = SystemClock.now();
        let before = copied.keys.iter().find(|before| before.provider == key.provider);
        // Writing takes longer than asking, so a copy that says the same is let be while it is young.
        if before.is_some_and(|before| {
            same(before, &key) && Self::age(before.copied_at, now) < Some(self.max_age / 20)
        }) {
            return Ok(());
        }
        key.copied_at = Some(now);
        copied.keys.retain(|before| before.provider != key.provider);
        copied.keys.push(key);
        self.write(&projects)
    }

    /// Keeps the names of all that there are now.
    pub(super) fn keep_all(&self, project: &str, providers: &[(Provider, Secret)]) -> Result<(), Error> {
        let mut projects = self.read();
        let names: Vec<_> = providers.iter().map(|(provider, _)| provider.to_string()).collect();
        let copied = projects.entry(project.to_owned()).or_default();
        copied.keys.retain(|key| names.iter().any(|name| name == key.provider.as_str()));
        copied.all = Some((SystemClock.now(), names));
        self.write(&projects)
    }

    /// The copy of a key, if there is one that may be used.
    pub(super) fn key(&self, project: &str, provider: &Provider) -> Option<LlmKey> {
        let keys = self.read().remove(project)?.keys;
        keys.into_iter().find(|key| key.provider == *provider).filter(|key| self.may_be_used(key))
    }

    /// The copy of all of them.
    pub(super) fn keys(&self, project: &str) -> Option<Handed> {
        let Copied { keys, all } = self.read().remove(project)?;
        let (since, names) = all?;
        let usable: Vec<_> = keys.into_iter().filter(|key| self.may_be_used(key)).collect();
        let is_whole = names.iter().all(|name| usable.iter().any(|key| key.provider.as_str() == name));
        let oldest = usable.iter().filter_map(|key| key.copied_at).fold(since, Timestamp::min);
        let keys = usable.into_iter().map(|key| (key.provider, key.key)).collect();
        is_whole.then_some(Handed { keys, etag: None, copied_at: Some(oldest) })
    }

    /// Forgets the key of a provider, or all keys, of a project: under each name by which they were asked for.
    pub(super) fn forget(&self, project: &str, provider: Option<&Provider>) -> Result<(), Error> {
        let mut projects = self.read();
        let asked = projects.get(project).into_iter().flat_map(|copied| &copied.keys);
        let names: BTreeSet<_> = asked.map(|key| key.project.clone()).chain([project.to_owned()]).collect();
        let mut has_changed = false;
        for (name, copied) in &mut projects {
            let (gone, left): (Vec<_>, Vec<_>) = mem::take(&mut copied.keys).into_iter().partition(|key| {
                (name == project || names.contains(&key.project))
                    && provider.is_none_or(|provider| *provider == key.provider)
            });
            has_changed |= !gone.is_empty();
            copied.keys = left;
            if let Some((_, all)) = &mut copied.all {
                all.retain(|name| !gone.iter().any(|key| key.provider.as_str() == name));
            }
        }
        projects.retain(|_, copied| !copied.keys.is_empty());
        if !has_changed {
            return Ok(());
        }
        // What cannot be taken out alone takes the rest with it.
        if projects.is_empty() { self.wipe() } else { self.write(&projects).or_else(|_| self.wipe()) }
    }

    /// Forgets all of it.
    pub(super) fn wipe(&self) -> Result<(), Error> {
        self.state.remove(&self.file)
    }

    fn may_be_used(&self, key: &LlmKey) -> bool {
        Self::age(key.copied_at, SystemClock.now()).is_some_and(|age| age <= self.max_age) && !key.is_ending()
    }

    /// How old it is; `None` if the clock says that it is from the future, for then it may be of any age.
    fn age(since: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
        let micros = now.micros().checked_sub(since?.micros())?;
        u64::try_from(micros).ok().map(Duration::from_micros)
    }

    /// What cannot be read is no copy.
    fn read(&self) -> Projects {
        let text = self.state.read(&self.file).ok().flatten();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, projects: &Projects) -> Result<(), Error> {
        let opened: BTreeMap<_, _> = projects
            .iter()
            .map(|(project, Copied { keys, all })| {
                (project, Opened { keys: keys.iter().map(LlmKey::opened).collect(), all })
            })
            .collect();
        let mut text = Zeroizing::new(Vec::with_capacity(8 * 1024));
        serde_json::to_writer(&mut *text, &opened).map_err(Error::failed)?;
        self.state.write(&self.file, &text)
    }
}

#[expect(clippy::disallowed_methods, reason = "a key is compared with its copy")]
fn same(a: &LlmKey, b: &LlmKey) -> bool {
    a.version == b.version
        && a.project == b.project
        && a.expires_at == b.expires_at
        && crypto::equal_in_constant_time(a.key.expose().as_bytes(), b.key.expose().as_bytes())
}
