//! Opening the desk: the first start makes everything, every other start finds it or refuses and says why.
//!
//! The first start works on `<database>.init` and renames it when it is whole, so that a half-made desk is never taken
//! for one. On PostgreSQL there is a desk as soon as there is a principal, who comes last; of processes that start at once,
//! one makes it. Nothing is written to an existing database before the key-encryption key has been checked against it.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    App, Error, Settings, Surroundings,
    alarms::Unwritten,
    book::{Book, Chain, Filing},
    health::Health,
    kek,
    limits::Limiters,
    principals::object,
    shed::Shed,
    signing_keys::Ring,
    throttle::Turns,
    view::Views,
};
use crate::{
    crypto::{
        keyring::{Kek, Keks, Keyring, Purpose},
        password::PasswordPool,
    },
    metrics::Metrics,
    model::{Action, AuditEvent, Caller, Principal, PrincipalKind, Project, ProjectName, Role, Scope},
    secret::Secret,
    store::{
        Alone, Store, StoreError, grants,
        keys::{self, DataKeyRow},
        principals, projects,
    },
};

pub use crate::store::{Database, Server};

/// Where a desk lives.
#[derive(Clone, Debug)]
pub struct Location {
    /// The database.
    pub database: Database,
    /// The files of the key-encryption key.
    pub kek: kek::Files,
}

/// What the first start made.
#[derive(Debug)]
pub struct FirstStart {
    /// The name of the administrator.
    pub admin: &'static str,
}

/// Held by a server while it starts, and on SQLite for as long as it runs.
#[derive(Debug)]
pub enum Lock {
    /// The other server on the same file stops.
    Serving(fs::File),
    /// Another one that starts at the same time waits.
    Starting(Alone),
}

impl Lock {
    /// The server has started: others may, where there may be several.
    pub fn started(self) -> Option<Self> {
        Some(self).filter(|lock| matches!(lock, Self::Serving(_)))
    }
}

impl Location {
    /// Whether there is a desk here.
    pub async fn exists(&self) -> Result<bool, Error> {
        if let Database::File(file) = &self.database {
            return Ok(file.exists());
        }
        match Store::inspect(&self.database).await {
            Ok(mut db) => principals::is_any(&mut db).await.map_err(|error| self.unusable(error)),
            Err(StoreError::NotOurs(_)) => Ok(false),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// Makes this process the only server of the desk that starts, or, on SQLite, the only one there is.
    pub async fn lock(&self) -> Result<Lock, Error> {
        match &self.database {
            Database::File(file) => lock_file(file).map(Lock::Serving),
            Database::Server(server) => {
                server.hold_alone().await.map(Lock::Starting).map_err(|error| self.unusable(error))
            }
        }
    }

    /// Whether a server holds the desk at this moment.
    pub async fn is_served(&self) -> bool {
        match &self.database {
            Database::File(database) => {
                let file = fs::OpenOptions::new().write(true).open(beside(database, ".lock"));
                file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
            }
            Database::Server(server) => server.is_served().await.unwrap_or(false),
        }
    }

    /// Makes a desk: database, data keys, signing key, project `default`, user `admin`.
    pub async fn initialise(
        &self,
        caller: &Caller,
        settings: Settings,
        surroundings: Surroundings,
        admin_password: Secret,
    ) -> Result<FirstStart, Error> {
        let app = match &self.database {
            Database::File(_) => Box::pin(self.draft(settings, surroundings)).await?,
            Database::Server(_) => Box::pin(self.begin_on_server(settings, surroundings)).await?,
        };
        app.settle_in(caller, admin_password).await?;
        app.close().await;
        self.put_in_place()?;
        Ok(FirstStart { admin: ADMIN })
    }

    /// What was a draft is a desk from now on.
    pub(super) fn put_in_place(&self) -> Result<(), Error> {
        if let Database::File(database) = &self.database {
            fs::rename(beside(database, DRAFT), database)
                .map_err(|error| refuse("cannot create", database, &error))?;
            let directory = database.parent().unwrap_or(Path::new("."));
            sync_directory(directory).map_err(|error| refuse("cannot write to", directory, &error))?;
        }
        Ok(())
    }

    /// An empty database where there is no desk: a draft of the file, or that of the server as it is.
    pub(super) async fn empty(&self) -> Result<Store, Error> {
        match &self.database {
            Database::File(database) => {
                self.remove_draft()?;
                let draft = beside(database, DRAFT);
                write_private_file(&draft, "").map_err(|error| refuse("cannot create", &draft, &error))?;
                Ok(Store::open(&Database::File(draft), true).await?)
            }
            Database::Server(_) => {
                Store::open(&self.database, true).await.map_err(|error| self.unusable(error))
            }
        }
    }

    /// Nothing is left of a draft.
    pub(super) fn remove_draft(&self) -> Result<(), Error> {
        if let Database::File(database) = &self.database {
            for leftover in ["", "-wal", "-shm"] {
                let path = beside(database, &format!("{DRAFT}{leftover}"));
                if path.exists() {
                    fs::remove_file(&path).map_err(|error| refuse("cannot remove", &path, &error))?;
                }
            }
        }
        Ok(())
    }

    /// An empty desk beside the place where it belongs.
    async fn draft(&self, settings: Settings, surroundings: Surroundings) -> Result<App, Error> {
        let keks = self.kek.read_or_new(&surroundings)?;
        let store = self.empty().await?;
        insert_data_keys(&store, &keks.current, &surroundings).await?;
        let rows = keys::data_keys(&mut store.read().await?).await?;
        let unlocked = self.unlocked(keks, rows)?;
        App::assemble(store, unlocked, settings, surroundings).await
    }

    /// An empty desk in the database of a server. A first start that did not come to its end has left its keys there.
    async fn begin_on_server(&self, settings: Settings, surroundings: Surroundings) -> Result<App, Error> {
        let store = self.empty().await?;
        if keys::data_keys(&mut store.read().await?).await?.is_empty() {
            let keks = self.kek.read_or_new(&surroundings)?;
            insert_data_keys(&store, &keks.current, &surroundings).await?;
        }
        App::assemble(store, self.unlock().await?, settings, surroundings).await
    }

    pub(super) async fn must_exist(&self) -> Result<(), Error> {
        if self.exists().await? {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "there is no desk at {}; `keydesk serve` makes one, or name the right place with --data-dir or DATABASE_URL",
            self.database
        )))
    }

    /// Opens the desk that is here.
    pub async fn open(&self, settings: Settings, surroundings: Surroundings) -> Result<App, Error> {
        self.must_exist().await?;
        let unlocked = match self.unlock().await {
            // Between the reading of the files and of the database, the key-encryption key may have been replaced.
            Err(Error::Refused(_)) => self.unlock().await?,
            other => other?,
        };
        let store = Store::open(&self.database, false).await.map_err(|error| self.unusable(error))?;
        App::assemble(store, unlocked, settings, surroundings).await
    }

    /// Opens the data keys with the KEK and the one before it, without changing anything.
    pub(super) async fn unlock(&self) -> Result<Unlocked, Error> {
        let (keks, rows) = self.checked().await?;
        self.unlocked(keks, rows)
    }

    /// The KEKs, and the data keys, each of which one of them opens.
    pub(super) async fn checked(&self) -> Result<(Keks, Vec<DataKeyRow>), Error> {
        let (keks, rows) = (self.kek.read()?, self.data_keys().await?);
        self.check(&keks, &rows)?;
        Ok((keks, rows))
    }

    /// The wrapped data keys, read from a database that stays as it is.
    pub(super) async fn data_keys(&self) -> Result<Vec<DataKeyRow>, Error> {
        if let Database::File(file) = &self.database
            && fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0)
        {
            return Err(Error::Refused(format!(
                "the database {} is empty: restore it from a backup, or remove it to start a new desk",
                self.database
            )));
        }
        let mut db = Store::inspect(&self.database).await.map_err(|error| self.unusable(error))?;
        keys::data_keys(&mut db).await.map_err(|error| self.unusable(error))
    }

    fn check(&self, keks: &Keks, rows: &[DataKeyRow]) -> Result<(), Error> {
        let ids = [Some(keks.current.id()), keks.previous.as_ref().map(Kek::id)];
        let foreign = rows.iter().filter(|row| !ids.iter().flatten().any(|id| row.kek_id == id)).count();
        if foreign > 0 {
            return Err(Error::Refused(format!(
                "the key-encryption key {} is not the one that the database {} was sealed with ({foreign} of {} data \
                 keys{}); put the right file there, or name it in kek.file; if another has replaced it, the one before \
                 it belongs in kek.previous_file",
                self.kek.current.display(),
                self.database,
                rows.len(),
                if keks.previous.is_some() { ", nor is the previous one" } else { "" }
            )));
        }
        for row in rows {
            keks.check(row.id, &row.purpose, &row.wrapped).map_err(|error| {
                Error::Refused(format!(
                    "data key {} in the database {} is damaged ({error}); restore a backup",
                    row.id, self.database
                ))
            })?;
        }
        Ok(())
    }

    pub(super) fn unlocked(&self, keks: Keks, rows: Vec<DataKeyRow>) -> Result<Unlocked, Error> {
        let rows: Vec<_> = rows.into_iter().map(|row| (row.id, row.purpose, row.wrapped)).collect();
        let keyring = Keyring::unwrap(&keks, &rows).map_err(|error| {
            Error::Refused(format!(
                "a data key in the database {} is missing ({error}); restore a backup",
                self.database
            ))
        })?;
        Ok(Unlocked { keyring, keks: kek::Held::new(self.kek.clone(), keks) })
    }

    pub(super) fn unusable(&self, error: impl std::fmt::Display) -> Error {
        Error::Refused(format!("the database {} cannot be used: {error}", self.database))
    }
}

/// What the KEK has opened.
pub(super) struct Unlocked {
    pub(super) keyring: Keyring,
    keks: kek::Held,
}

/// The path whose name is that of `path` with `suffix` behind it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Creates the directory of the database, if need be.
fn lock_file(database: &Path) -> Result<fs::File, Error> {
    let directory = database.parent().unwrap_or(Path::new("."));
    create_private_directory(directory).map_err(|error| refuse("cannot create", directory, &error))?;
    let path = beside(database, ".lock");
    let open = fs::OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|error| refuse("cannot open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Refused(format!(
            "another keydesk serves {} already; stop it first, or give this one a data directory of its own",
            database.display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(refuse("cannot lock", &path, &error)),
    }
}

/// What is added to the name of a database that is not yet whole.
const DRAFT: &str = ".init";
/// The user that the first start makes.
const ADMIN: &str = "admin";

async fn insert_data_keys(store: &Store, kek: &Kek, surroundings: &Surroundings) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    for purpose in [Purpose::Seal, Purpose::Mac] {
        let id = surroundings.new_id();
        let row = keys::DataKeyRow {
            id,
            purpose: purpose.as_str().to_owned(),
            kek_id: kek.id().to_vec(),
            wrapped: kek.new_data_key(id, purpose, &*surroundings.entropy),
        };
        keys::insert_data_key(&mut tx, row, surroundings.clock.now()).await?;
    }
    Ok(tx.commit().await?)
}

impl App {
    pub(super) async fn assemble(
        store: Store,
        Unlocked { keyring, keks }: Unlocked,
        settings: Settings,
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let metrics = Metrics::new();
        let passwords = PasswordPool::start(Arc::clone(&surroundings.entropy), metrics.clone())
            .map_err(Error::internal)?;
        let file = &settings.audit.checkpoint_file;
        let chain = Chain::new(store.clone(), surroundings.clone(), keyring.audit(), metrics.clone(), file);
        let book = Book::open(chain);
        let signing_keys = Ring::empty();
        let app = Self {
            store,
            keyring,
            keks,
            signing_keys,
            passwords,
            turns: Turns::default(),
            shed: Shed::default(),
            views: Views::new(),
            uses: Mutex::default(),
            limits: Limiters::new(settings.limits),
            book,
            unwritten: Unwritten::default(),
            filing: Filing::default(),
            surroundings,
            settings,
            metrics,
            health: Health::default(),
        };
        app.load_signing_keys().await?;
        Ok(app)
    }

    /// The first rows of a new desk.
    async fn settle_in(&self, caller: &Caller, admin_password: Secret) -> Result<(), Error> {
        let name = ADMIN.parse().map_err(Error::internal)?;
        let hash = self.hash_new_password(&name, admin_password).await?;
        self.ensure_signing_key(caller).await?;
        let now = self.now();
        let project = Project { id: self.new_id(), name: ProjectName::default_project(), created_at: now };
        let admin = Principal::new(self.new_id(), PrincipalKind::User, name, Role::Admin, now);
        let mut change = self.change(caller, Scope::Admin, Action::DeskInitialise, "desk".to_owned()).await?;
        let result = async {
            projects::insert(&mut change, &project).await?;
            principals::insert(&mut change, &admin, Some(hash)).await?;
            grants::put(&mut change, admin.id, project.id, None, now).await?;
            let by = |action| AuditEvent::by(caller, action);
            change.also(by(Action::ProjectCreate).on(format!("project:{}", project.name)));
            change.also(by(Action::UserCreate).on(object(admin.kind, &admin.name)).detail(admin.role));
            change.also(by(Action::GrantSet).on(format!("grant:{}/{}", project.name, admin.name)));
            Ok(())
        }
        .await;
        change.finish(result).await
    }
}

pub(super) fn refuse(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::Refused(format!("{what} {}: {error}", path.display()))
}

/// Makes a directory that only its owner can look into, if there is none.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes what [`write_private_file`] has left if it was killed, be it before the file appeared or after, and returns where.
pub(super) fn remove_draft(path: &Path) -> io::Result<PathBuf> {
    let draft = beside(path, ".new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(draft),
    }
}

/// Writes a new file that only its owner can read, durably: it appears whole or not at all. An existing one is an error.
pub fn write_private_file(path: &Path, text: &str) -> io::Result<()> {
    use io::Write as _;
    let draft = remove_draft(path)?;
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link, because a rename would overwrite.
    fs::hard_link(&draft, path)?;
    fs::remove_file(&draft)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
}
