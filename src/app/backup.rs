//! A copy of the desk in a file, a desk from such a file, and a desk that moves into another database: one mechanism for
//! the three, and for both engines.
//!
//! Everything is read as it is at one moment, while servers go on writing; that it is, stands in the book before, and so
//! in the copy. What is filled becomes a desk only when every row has been read back and compared: a draft of a file gets its
//! name, on a server one transaction ends. The book is verified before that in a file, and behind it on a server, where the
//! event of the restore is written behind it, too: a process that is killed between the two leaves a whole desk whose book does
//! not say where it comes from. The key-encryption key is never part of it: it must be there before.

mod copy;
mod file;

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

pub use copy::{Progress, Step};
pub use file::Header;

use super::{
    App, Error, Report, Settings, Surroundings,
    book::{Behind, Book},
    desk::{Database, Location, Lock, create_private_directory, refuse},
    hex,
    kek::directory_of,
};
use crate::{
    crypto::keyring::Keyring,
    model::{Action, AuditEvent, Caller, Scope},
    store::{Connection, Store, audit_checkpoints, audit_streams, dump::Load, keys},
};
use copy::Source;
use file::{Draft, Reader, Writer, damaged};

/// The table of a backup that is none of the database's: what stands in the checkpoint file.
const CHECKPOINTS: (&str, &[&str]) = ("checkpoint_file", &["line"]);

/// A desk that has come out of a backup or another database.
#[derive(Debug, serde::Serialize)]
pub struct Settled {
    /// How many rows it has in all tables.
    pub rows: u64,
    /// Whether its book is whole.
    pub book: Report,
    /// What a checkpoint knows, and the book does not any more.
    pub lost: Option<Lost>,
}

/// Events that are not in the book any more.
#[derive(Debug, serde::Serialize)]
pub struct Lost {
    /// How many, and what says so.
    #[serde(flatten)]
    pub behind: Behind,
    /// The file that knows of them.
    pub known_to: PathBuf,
    /// The same file as it was when the backup was taken.
    pub of_backup: Option<PathBuf>,
}

impl App {
    /// Copies the desk into a new file. Needs `admin`.
    pub async fn back_up(
        &self,
        caller: &Caller,
        path: &Path,
        force: bool,
        progress: Progress<'_>,
    ) -> Result<Header, Error> {
        self.require(caller, Scope::Admin, Action::DeskBackup, "desk").await?;
        if force {
            file::check_replaceable(path)?;
        }
        let draft = Draft::create(path, force)?;
        let out = io::BufWriter::with_capacity(128 * 1024, &draft.file);
        let header = self.back_up_to(caller, &path.display().to_string(), out, progress).await?;
        draft.keep()?;
        Ok(header)
    }

    /// Copies the desk to wherever `out` leads, which the book calls `name`. Needs `admin`.
    pub async fn back_up_to(
        &self,
        caller: &Caller,
        name: &str,
        out: impl Write,
        progress: Progress<'_>,
    ) -> Result<Header, Error> {
        self.require(caller, Scope::Admin, Action::DeskBackup, "desk").await?;
        let event = AuditEvent::by(caller, Action::DeskBackup).on("desk").detail(name);
        // Before anything is read, so that every copy holds the word of its own making.
        self.book.record(event.clone()).await?;
        let written = self.write_backup(out, progress).await;
        if let Err(error) = &written {
            self.book.record(event.failed(error.to_string())).await?;
        }
        written
    }

    async fn write_backup(&self, out: impl Write, progress: Progress<'_>) -> Result<Header, Error> {
        let mut db = self.store.snapshot().await?;
        let mut kek: Vec<_> = keys::data_keys(&mut db).await?.iter().map(|row| hex(&row.kek_id)).collect();
        kek.sort_unstable();
        kek.dedup();
        let checkpoint = audit_checkpoints::newest(&mut db).await?.map(|row| row.seq);
        let rows = copy::count(&mut db).await?;
        let header = Header::new(Store::SCHEMA, kek, self.now(), rows, checkpoint);
        let mut to = Writer::new(out, &header)?;
        copy::save(&mut db, &mut to, rows, progress).await?;
        let lines = self.checkpoint_lines(&mut db).await?;
        let mut tally = file::Tally::default();
        to.begin(CHECKPOINTS.0, CHECKPOINTS.1)?;
        for line in lines {
            let line = file::line_of(&[line])?;
            tally.add(&line);
            to.line(&line)?;
        }
        to.end(&tally.sum())?;
        to.finish(&self.keyring)?;
        Ok(header)
    }

    /// What stands in the checkpoint file, as far as `db` knows of it. The file is read behind the database, so that what must
    /// stand in it does.
    async fn checkpoint_lines(&self, db: &mut Connection) -> Result<Vec<String>, Error> {
        let newest = audit_checkpoints::newest(db).await?.map_or(0, |row| row.seq);
        Book::checkpoints_up_to(&self.keyring.audit(), &self.settings.audit.checkpoint_file, newest)
    }
}

/// An empty place, held so that nobody else begins there.
struct Vacant<'l> {
    location: &'l Location,
    store: Store,
    _lock: Lock,
}

impl Location {
    /// Makes a desk out of a backup, in an empty place where there is its key-encryption key.
    pub async fn restore(
        &self,
        from: impl Read,
        caller: &Caller,
        settings: Settings,
        surroundings: Surroundings,
        progress: Progress<'_>,
    ) -> Result<(Header, Settled), Error> {
        let mut reader = Reader::new(from)?;
        let header = reader.header.clone();
        if header.schema != Store::SCHEMA {
            return Err(Error::Refused(format!(
                "the backup was written by keydesk {} with schema {}, and this keydesk has schema {}: restore it with \
                 the version that wrote it; a newer one then brings the desk up to date when it starts",
                header.keydesk,
                header.schema,
                Store::SCHEMA
            )));
        }
        let keks = self.kek.read()?;
        let here = [Some(hex(&keks.current.id())), keks.previous.as_ref().map(|kek| hex(&kek.id()))];
        if header.kek.iter().any(|id| !here.iter().flatten().any(|here| here == id)) {
            return Err(Error::Refused(format!(
                "the key-encryption key {} is not the one that the backup was sealed with; put the right file there, or \
                 name it in kek.file; if another has replaced it since, the old one belongs in kek.previous_file",
                self.kek.current.display()
            )));
        }
        let vacant = self.vacant().await?;
        // What could fail afterwards: on a server there is a desk from the moment at which all is loaded.
        let directory = directory_of(&settings.audit.checkpoint_file);
        create_private_directory(directory).map_err(|error| refuse("cannot create", directory, &error))?;
        let settled = async {
            let mut load =
                copy::fill(&vacant.store, &mut Source::File(&mut reader), header.rows, &mut *progress)
                    .await?;
            let lines = checkpoints(&mut reader)?;
            let rows = keys::data_keys(load.transaction()).await?;
            let unlocked = self.unlocked(keks, rows).map_err(|_| damaged())?;
            reader.finish(&unlocked.keyring)?;
            vacant.finish(load, &unlocked.keyring, &lines).await?;
            take_along(&settings.audit.checkpoint_file, &lines)?;
            let app = App::assemble(vacant.store.clone(), unlocked, settings, surroundings).await?;
            let event = AuditEvent::by(caller, Action::DeskRestore).on("desk");
            let from = format!("from the backup of {}", header.at);
            app.begin_again(event, &from, header.rows, Some(&lines), progress).await
        };
        let settled = settled.await;
        Ok((header, vacant.end(settled).await?))
    }

    /// Moves the desk that is here into an empty database. Its key-encryption key and the files of its data directory go on
    /// serving; what is left here is what it was before.
    pub async fn migrate_to(
        &self,
        to: &Self,
        caller: &Caller,
        settings: Settings,
        surroundings: Surroundings,
        progress: Progress<'_>,
    ) -> Result<Settled, Error> {
        self.must_exist().await?;
        let _no_server = self.unserved().await?;
        let source = self.open(settings.clone(), surroundings.clone()).await?;
        let unlocked = self.unlock().await?;
        let vacant = to.vacant().await?;
        let settled = async {
            let mut db = source.store.snapshot().await?;
            let rows = copy::count(&mut db).await?;
            let mut from: Source<'_, io::Empty> = Source::Database(&mut db);
            let load = copy::fill(&vacant.store, &mut from, rows, &mut *progress).await?;
            let lines = source.checkpoint_lines(&mut db).await?;
            vacant.finish(load, &source.keyring, &lines).await?;
            let app = App::assemble(vacant.store.clone(), unlocked, settings, surroundings).await?;
            let event = AuditEvent::by(caller, Action::DeskMigrate).on("desk");
            app.begin_again(event, &format!("from {}", self.database), rows, None, progress).await
        };
        let settled = settled.await;
        source.close().await;
        vacant.end(settled).await
    }

    /// Makes sure that no server is here, nor comes as long as the answer is kept.
    async fn unserved(&self) -> Result<Lock, Error> {
        let lock = self.lock().await?;
        if let Database::Server(server) = &self.database
            && server.is_served().await.map_err(|error| self.unusable(error))?
        {
            return Err(Error::Refused(format!("a keydesk serves {}; stop it first", self.database)));
        }
        Ok(lock)
    }

    async fn vacant(&self) -> Result<Vacant<'_>, Error> {
        if self.exists().await? {
            return Err(Error::Refused(format!(
                "there is a desk at {} already, and nothing is written over it; name an empty place with --data-dir or \
                 DATABASE_URL, or move that desk away first",
                self.database
            )));
        }
        let lock = self.unserved().await?;
        Ok(Vacant { location: self, store: self.empty().await?, _lock: lock })
    }
}

impl Vacant<'_> {
    /// Makes durable what was filled. Where several servers may come, the checkpoints have to be in the database: each server
    /// has a file of its own.
    async fn finish(&self, mut load: Load, keyring: &Keyring, lines: &[String]) -> Result<(), Error> {
        if self.store.is_shared() {
            let rows = Book::checkpoints_of(&keyring.audit(), lines);
            audit_checkpoints::share(load.transaction(), rows).await?;
        }
        Ok(load.finish().await?)
    }

    /// On SQLite it is a desk now, or nothing. On a server it has been one since all was loaded.
    async fn end<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        self.store.close().await;
        let ended = result.and_then(|value| self.location.put_in_place().map(|()| value));
        if ended.is_err() {
            self.location.remove_draft()?;
        }
        ended
    }
}

impl App {
    /// Holds what was filled against what is known of the book, and begins to write in it.
    async fn begin_again(
        &self,
        event: AuditEvent,
        from: &str,
        rows: u64,
        lines: Option<&[String]>,
        progress: Progress<'_>,
    ) -> Result<Settled, Error> {
        let (file, keys) = (&self.settings.audit.checkpoint_file, self.keyring.audit());
        let streams = audit_streams::all(&mut self.store.read().await?).await?;
        let lost = match Book::behind(&keys, file, &streams)? {
            Some(behind) => Some(Lost {
                behind,
                known_to: file.clone(),
                of_backup: lines.map(|lines| set_beside(file, lines)).transpose()?,
            }),
            None => None,
        };
        let verifying = |done, total| progress(Step::Verifying, done, total);
        let book = Book::verify(&self.store, &keys, file, &[], verifying).await?;
        let lack = lost.as_ref().map_or_else(String::new, |Lost { behind, .. }| {
            format!("; checkpoint {} of {} knows {} events more", behind.checkpoint, behind.at, behind.events)
        });
        self.book.record(event.detail(format_args!("{from}{lack}"))).await?;
        self.close().await;
        Ok(Settled { rows, book, lost })
    }
}

/// The lines of the checkpoint file in a backup.
fn checkpoints(reader: &mut Reader<impl Read>) -> Result<Vec<String>, Error> {
    reader.begin(CHECKPOINTS.0, CHECKPOINTS.1)?;
    let (mut tally, mut lines) = (file::Tally::default(), Vec::new());
    while let Some(line) = reader.row(&mut tally)? {
        let [line]: [String; 1] = serde_json::from_slice(line).map_err(|_| damaged())?;
        lines.push(line);
    }
    Ok(lines)
}

/// Writes the lines of a backup into the checkpoint file, as far as they go beyond it. One that says anything else stays: it
/// may know more than the backup.
fn take_along(path: &Path, lines: &[String]) -> Result<(), Error> {
    let known = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(refuse("cannot read the checkpoints", path, &error)),
    };
    let text = text_of(lines);
    if text.len() > known.len() && text.starts_with(&known) { write_over(path, &text) } else { Ok(()) }
}

/// Writes them into a file beside that.
fn set_beside(path: &Path, lines: &[String]) -> Result<PathBuf, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".of-backup");
    let beside = PathBuf::from(name);
    write_over(&beside, &text_of(lines))?;
    Ok(beside)
}

fn text_of(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn write_over(path: &Path, text: &str) -> Result<(), Error> {
    let mut draft = Draft::create(path, true)?;
    draft.file.write_all(text.as_bytes()).map_err(|error| refuse("cannot write", path, &error))?;
    draft.keep()
}
