//! Opening the desk: the first start makes everything, every other start finds it or refuses and says why.
//!
//! The first start works on `<database>.init` and renames it when it is whole, so that a half-made desk is never taken
//! for one. On PostgreSQL there is a desk as soon as there is a principal, who comes last; of processes that start at once,
//! one makes it. Nothing is written to an existing database before the key-encryption key has been checked against it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    App, Error, Settings, Surroundings,
    alarms::Unwritten,
    book::{Book, Chain, Filing},
    health::Health,
    limits::Limiters,
    principals::object,
    shed::Shed,
    signing_keys::Ring,
    throttle::Turns,
    view::Views,
};
use crate::{
    crypto::{
        keyring::{Kek, Keyring, Purpose},
        password::PasswordPool,
    },
    metrics::Metrics,
    model::{Action, AuditEvent, Caller, Principal, PrincipalKind, Project, ProjectName, Role, Scope},
    secret::Secret,
    store::{Alone, Store, StoreError, grants, keys, principals, projects},
};

pub use crate::store::{Database, Server};

/// Where a desk lives.
#[derive(Clone, Debug)]
pub struct Location {
    /// The database.
    pub database: Database,
    /// The file of the key-encryption key.
    pub kek_file: PathBuf,
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

    /// Reads the KEK, which must exist and be readable by its owner only, or be root's.
    fn kek(&self) -> Result<Kek, Error> {
        let path = &self.kek_file;
        let (mode, owner) = match fs::metadata(path) {
            Ok(metadata) => (metadata.permissions().mode() & 0o777, (metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Refused(format!(
                    "the key-encryption key {} is missing, and without it the database {} cannot be opened; restore \
                     the file from where you keep it",
                    path.display(),
                    self.database
                )));
            }
            Err(error) => return Err(refuse("cannot read the key-encryption key", path, &error)),
        };
        // How a service manager hands over a credential: root's own, and its access list shows as the group's permission. Or how
        // Kubernetes does: root's own, for a group that this process was put in.
        let is_credential = mode == 0o440 && owner.0 == 0 && (owner.1 == 0 || is_our_group(owner.1));
        if mode & 0o077 != 0 && !is_credential {
            return Err(Error::Refused(format!(
                "the key-encryption key {} can be read by others (mode {mode:04o}); run: chmod 600 {}",
                path.display(),
                path.display()
            )));
        }
        let text = fs::read_to_string(path)
            .map_err(|error| refuse("cannot read the key-encryption key", path, &error))?;
        Kek::from_text(&Secret::new(text)).map_err(|error| {
            Error::Refused(format!("the key-encryption key {} is of no use: {error}", path.display()))
        })
    }

    /// The KEK that is here, or a new one. Only for a desk that does not exist yet.
    #[expect(clippy::disallowed_methods, reason = "the new key is written to its file")]
    fn kek_or_new(&self, surroundings: &Surroundings) -> Result<Kek, Error> {
        if self.kek_file.exists() {
            return self.kek();
        }
        let text = Kek::generate(&*surroundings.entropy);
        let directory = self.kek_file.parent().unwrap_or(Path::new("."));
        create_private_directory(directory).map_err(|error| refuse("cannot create", directory, &error))?;
        write_private_file(&self.kek_file, &format!("{}\n", text.expose()))
            .map_err(|error| refuse("cannot write the key-encryption key", &self.kek_file, &error))?;
        self.kek()
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
            Database::File(database) => self.draft(database, settings, surroundings).await?,
            Database::Server(_) => self.begin_on_server(settings, surroundings).await?,
        };
        app.settle_in(caller, admin_password).await?;
        app.close().await;
        if let Database::File(database) = &self.database {
            fs::rename(beside(database, DRAFT), database)
                .map_err(|error| refuse("cannot create", database, &error))?;
            let directory = database.parent().unwrap_or(Path::new("."));
            sync_directory(directory).map_err(|error| refuse("cannot write to", directory, &error))?;
        }
        Ok(FirstStart { admin: ADMIN })
    }

    /// An empty desk beside the place where it belongs.
    async fn draft(
        &self,
        database: &Path,
        settings: Settings,
        surroundings: Surroundings,
    ) -> Result<App, Error> {
        let kek = self.kek_or_new(&surroundings)?;
        for leftover in ["", "-wal", "-shm"] {
            let path = beside(database, &format!("{DRAFT}{leftover}"));
            if path.exists() {
                fs::remove_file(&path).map_err(|error| refuse("cannot remove", &path, &error))?;
            }
        }
        let draft = beside(database, DRAFT);
        write_private_file(&draft, "").map_err(|error| refuse("cannot create", &draft, &error))?;
        let store = Store::open(&Database::File(draft), true).await?;
        insert_data_keys(&store, &kek, &surroundings).await?;
        App::assemble(store, &kek, settings, surroundings).await
    }

    /// An empty desk in the database of a server. A first start that did not come to its end has left its keys there.
    async fn begin_on_server(&self, settings: Settings, surroundings: Surroundings) -> Result<App, Error> {
        let store = Store::open(&self.database, true).await.map_err(|error| self.unusable(error))?;
        let is_new = keys::data_keys(&mut store.read().await?).await?.is_empty();
        let kek = if is_new { self.kek_or_new(&surroundings)? } else { self.kek()? };
        if is_new {
            insert_data_keys(&store, &kek, &surroundings).await?;
        }
        self.check_untouched(&kek).await?;
        App::assemble(store, &kek, settings, surroundings).await
    }

    /// Opens the desk that is here.
    pub async fn open(&self, settings: Settings, surroundings: Surroundings) -> Result<App, Error> {
        if !self.exists().await? {
            return Err(Error::Refused(format!(
                "there is no desk at {}; `keydesk serve` makes one, or name the right place with --data-dir or \
                 DATABASE_URL",
                self.database
            )));
        }
        let kek = self.kek()?;
        self.check_untouched(&kek).await?;
        let store = Store::open(&self.database, false).await.map_err(|error| self.unusable(error))?;
        App::assemble(store, &kek, settings, surroundings).await
    }

    /// Looks whether database and KEK belong together, without changing either.
    async fn check_untouched(&self, kek: &Kek) -> Result<(), Error> {
        if let Database::File(file) = &self.database
            && fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0)
        {
            return Err(Error::Refused(format!(
                "the database {} is empty: restore it from a backup, or remove it to start a new desk",
                self.database
            )));
        }
        let mut db = Store::inspect(&self.database).await.map_err(|error| self.unusable(error))?;
        let rows = keys::data_keys(&mut db).await.map_err(|error| self.unusable(error))?;
        if rows.iter().any(|row| row.kek_id != kek.id()) {
            return Err(Error::Refused(format!(
                "the key-encryption key {} is not the one that the database {} was sealed with; put the right file \
                 there, or name it in kek.file",
                self.kek_file.display(),
                self.database
            )));
        }
        Ok(())
    }

    fn unusable(&self, error: impl std::fmt::Display) -> Error {
        Error::Refused(format!("the database {} cannot be used: {error}", self.database))
    }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn is_our_group(group: u32) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups.into_iter().chain([rustix::process::getegid()]).any(|ours| ours.as_raw() == group)
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
    async fn assemble(
        store: Store,
        kek: &Kek,
        settings: Settings,
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let rows = keys::data_keys(&mut store.read().await?).await?;
        let rows: Vec<_> = rows.into_iter().map(|row| (row.id, row.purpose, row.wrapped)).collect();
        let keyring = Keyring::unwrap(kek, &rows).map_err(|error| {
            Error::Refused(format!(
                "a data key in the database is damaged or missing ({error}); restore a backup"
            ))
        })?;
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
            change.also(by(Action::ProjectCreate).on(format!("project:{}", project.name))).await?;
            change
                .also(by(Action::UserCreate).on(object(admin.kind, &admin.name)).detail(admin.role))
                .await?;
            change.also(by(Action::GrantSet).on(format!("grant:{}/{}", project.name, admin.name))).await
        }
        .await;
        change.finish(result).await
    }
}

fn refuse(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::Refused(format!("{what} {}: {error}", path.display()))
}

fn create_private_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes a new file that only its owner can read, durably: it appears whole or not at all. An existing one is an error.
pub fn write_private_file(path: &Path, text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // A link, because a rename would overwrite.
    fs::hard_link(&draft, path)?;
    fs::remove_file(&draft)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
}
