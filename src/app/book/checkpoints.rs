//! Signed checkpoints: how far the book had come at a moment, kept where a forger of the database cannot reach.
//!
//! A checkpoint is first a row, made in a transaction of its own, and then a line at the end of the checkpoint file. A row
//! stays until it stands in the file: what could not be written there is tried again, and readiness shows it meanwhile.
//! Where several servers share a database, each keeps a file of its own with the checkpoints of all, and the rows stay.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use super::{chain::genuine_heads, evidence};
use crate::{
    app::{App, Error, outbox::Destination},
    crypto::{self, statement::Statement},
    model::{Alarm, Id, Mac, Rule, Timestamp, chain::Checkpoint},
    store::{
        Store, Tx,
        audit_checkpoints::{self, CheckpointRow},
        audit_streams::{self, StreamRow},
        outbox,
    },
};

/// A checkpoint is made when so many events have been written since the one before,
const EVENTS: i64 = 1_000;
/// or when there are any and so much time has passed.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long the file may take until that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of the end of the file is looked at for its last line.
const TAIL: u64 = 4 * 1024 * 1024;
/// How many checkpoints are written to the file at once.
const AT_ONCE: i64 = 1_000;

/// The checkpoint file.
#[derive(Debug, Default)]
pub(in crate::app) struct Filing {
    turn: Arc<tokio::sync::Mutex<()>>,
    failing: AtomicBool,
    /// Up to which number checkpoints stand in the file, where the rows do not say so; 0 until it has been looked at.
    filed: AtomicI64,
}

impl Filing {
    /// Whether all checkpoints could be written to the file.
    pub(in crate::app) fn works(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Remembers how it went, and tells the operator when that changes.
    fn went<T>(&self, path: &Path, result: &io::Result<T>) {
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !failed_before => tracing::error!(
                file = %path.display(), %error,
                "a checkpoint of the book cannot be written; it is tried again until it can"
            ),
            Ok(_) if failed_before => {
                tracing::info!(file = %path.display(), "checkpoints of the book are written again");
            }
            _ => {}
        }
    }
}

impl App {
    /// Makes a checkpoint if one is due, or, at the `last` moment, if there is anything new; and writes to the file what
    /// does not stand there yet.
    pub async fn keep_checkpoints(&self, last: bool) -> Result<(), Error> {
        self.make_due_checkpoint(last).await?;
        self.file_checkpoints().await
    }

    /// Makes a checkpoint if one is due, or, at the `last` moment, if there is anything new.
    pub(in crate::app) async fn make_due_checkpoint(&self, last: bool) -> Result<(), Error> {
        let mut db = self.store.read().await?;
        let newest = audit_checkpoints::newest(&mut db).await?;
        let grown: i64 =
            audit_streams::to_anchor(&mut db).await?.iter().map(|row| row.head.seq - row.anchored).sum();
        drop(db);
        let grown = grown.max(i64::from(self.book.unanchored().await.is_some()));
        let is_time = last || newest.as_ref().is_none_or(|newest| newest.at.plus(INTERVAL) <= self.now());
        if grown >= EVENTS || (grown > 0 && is_time) {
            self.make_checkpoint(newest.map(|newest| newest.seq)).await?;
        }
        Ok(())
    }

    /// Makes a checkpoint of what this process has written, if it has written anything: what is done at the command line while
    /// no server runs is anchored when the command ends.
    pub async fn checkpoint_own(&self) -> Result<(), Error> {
        if self.book.unanchored().await.is_some() { self.keep_checkpoints(true).await } else { Ok(()) }
    }

    /// Makes the one that comes behind number `newest`, unless another process has made it meanwhile.
    async fn make_checkpoint(&self, newest: Option<i64>) -> Result<(), Error> {
        // What the others have said of our own stream.
        if self.store.is_shared() {
            self.unfiled().await?.into_iter().for_each(|row| drop(self.read_checkpoint(row)));
        }
        let mut tx = self.store.begin().await?;
        let before = audit_checkpoints::newest(&mut tx).await?;
        if before.as_ref().map(|row| row.seq) != newest {
            return Ok(());
        }
        let mut grown = audit_streams::to_anchor_anew(&mut tx).await?;
        let mut marked = believe_no_impossible_mark(&mut grown);
        let own = self.book.unanchored().await;
        if let Some((head, anchored)) = own {
            // Whatever the database says of our own stream: its end is known here.
            let known = StreamRow { head, seal: Some(self.keyring.audit().head_seal(&head)), anchored };
            let said = grown.iter().position(|row| row.head.stream == head.stream);
            let said = said.map(|place| grown.swap_remove(place));
            if said.is_some_and(|said| said.head != known.head || said.seal != known.seal) {
                marked.push(head.stream);
            }
            grown.push(known);
        }
        if grown.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let (heads, mut forged) = genuine_heads(&self.keyring.audit(), &grown, true);
        forged.append(&mut marked);
        let checkpoint = Checkpoint {
            seq: before.as_ref().map_or(1, |row| row.seq + 1),
            iat: now.seconds(),
            previous: before.as_ref().map(|row| Mac(crypto::sha256(row.jws.as_bytes()))),
            events: before.as_ref().map_or(0, |row| row.events)
                + grown.iter().map(|row| row.head.seq - row.anchored).sum::<i64>(),
            heads,
        };
        let jws = self.keyring.audit().signer().sign(Statement::Checkpoint, &checkpoint);
        let jws = jws.map_err(Error::internal)?;
        let row =
            CheckpointRow { seq: checkpoint.seq, at: now, events: checkpoint.events, jws, filed_at: None };
        audit_streams::anchor(&mut tx, grown.iter().map(|row| row.head).collect()).await?;
        self.send_checkpoint(&mut tx, &row).await?;
        audit_checkpoints::insert(&mut tx, row).await?;
        tx.commit().await?;
        if let Some((head, _)) = own {
            self.book.anchor(head.seq);
        }
        if let Some(stream) = forged.first() {
            self.raise_forgery(format!("stream {stream}: its head was forged")).await;
        }
        Ok(())
    }

    /// Tells that the book was found to be changed.
    pub(super) async fn raise_forgery(&self, what: impl std::fmt::Display + Send) {
        let summary = format!("the book was changed: {what}; run: keydesk audit verify");
        self.raise(Alarm::new(Rule::ForgedBook, "book", summary)).await;
    }

    /// Puts a new checkpoint into the outbox, in the transaction that records it, if there is a webhook for it.
    async fn send_checkpoint(&self, tx: &mut Tx, checkpoint: &CheckpointRow) -> Result<(), Error> {
        if !self.settings.destinations.contains(&Destination::Checkpoints) {
            return Ok(());
        }
        let body = serde_json::json!({
            "type": "audit.checkpoint",
            "timestamp": checkpoint.at,
            "data": { "seq": checkpoint.seq, "events": checkpoint.events, "jws": checkpoint.jws },
        });
        let message = self.new_message(Destination::Checkpoints, body.to_string());
        Ok(outbox::insert(tx, vec![message]).await?)
    }

    /// Appends to the file what does not stand there yet. What cannot be written is no error here: it is tried again.
    pub(in crate::app) async fn file_checkpoints(&self) -> Result<(), Error> {
        let turn = Arc::clone(&self.filing.turn).lock_owned().await;
        let rows = self.unfiled().await?;
        let Some(newest) = rows.last().map(|row| row.seq) else { return Ok(()) };
        let path = self.settings.audit.checkpoint_file.clone();
        let lines: Vec<Line> = rows.into_iter().map(|row| self.read_checkpoint(row)).collect();
        let mut appending = tokio::task::spawn_blocking(move || {
            // Kept also if nobody waits any more: two that append at a time would write lines twice.
            let _turn = turn;
            append(&path, &lines)
        });
        let file = &self.settings.audit.checkpoint_file;
        let appended = if let Ok(appended) = tokio::time::timeout(PATIENCE, &mut appending).await {
            appended
        } else {
            // There is no way to end it, and no use in a second thread that hangs as well.
            self.filing.went::<bool>(
                file,
                &Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")),
            );
            appending.await
        };
        let appended = appended.map_err(Error::internal)?;
        self.filing.went(file, &appended);
        let Ok(follows) = appended else { return Ok(()) };
        if self.store.is_shared() {
            self.filing.filed.store(newest, Ordering::Relaxed);
        } else {
            remember_filed(&self.store, newest, self.now()).await?;
        }
        if !follows {
            self.raise_forgery("the file of checkpoints does not end with the one before the newest").await;
        }
        Ok(())
    }

    /// Whether a checkpoint stands in the file of this process.
    pub(super) fn is_filed(&self, row: &CheckpointRow) -> bool {
        row.filed_at.is_some() || row.seq <= self.filing.filed.load(Ordering::Relaxed)
    }

    /// The checkpoints that do not stand in the file yet, at the beginning also one that should: if the file ends with another
    /// one of that number, the database was rolled back.
    async fn unfiled(&self) -> Result<Vec<CheckpointRow>, Error> {
        let mut db = self.store.read().await?;
        if !self.store.is_shared() {
            let rows = audit_checkpoints::checkpoints(&mut db).await?;
            return Ok(rows.into_iter().filter(|row| row.filed_at.is_none()).collect());
        }
        let mut filed = self.filing.filed.load(Ordering::Relaxed);
        if filed == 0 {
            let (keys, path) = (self.keyring.audit(), self.settings.audit.checkpoint_file.clone());
            let last = tokio::task::spawn_blocking(move || evidence::last_in_file(&keys, &path)).await;
            let last = last.map_err(Error::internal)?;
            let newest = audit_checkpoints::newest(&mut db).await?.map_or(0, |row| row.seq);
            filed = last.min(newest) - 1;
        }
        Ok(audit_checkpoints::behind(&mut db, filed, AT_ONCE).await?)
    }

    /// What a checkpoint says, if it is genuine. That it knows our own stream is believed here and nowhere else.
    fn read_checkpoint(&self, row: CheckpointRow) -> Line {
        let claims = self.keyring.audit().signer().verify::<Checkpoint>(Statement::Checkpoint, &row.jws);
        let own =
            claims.iter().flat_map(|claims| &claims.heads).find(|head| head.stream == self.book.stream());
        if let Some(head) = own {
            self.book.anchor(head.seq);
        }
        Line { jws: row.jws, previous: claims.and_then(|claims| claims.previous) }
    }
}

/// A checkpoint that belongs in the file.
struct Line {
    jws: String,
    /// The digest of the line that it should come behind, if it is genuine and says so.
    previous: Option<Mac>,
}

/// A mark behind a stream's end is nothing that a desk writes: it counts as none. Returns the streams that have one.
fn believe_no_impossible_mark(rows: &mut [StreamRow]) -> Vec<Id> {
    let mut marked = Vec::new();
    for row in rows.iter_mut().filter(|row| row.anchored > row.head.seq) {
        row.anchored = 0;
        marked.push(row.head.stream);
    }
    marked
}

async fn remember_filed(store: &Store, seq: i64, now: Timestamp) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    audit_checkpoints::filed(&mut tx, seq, now).await?;
    Ok(tx.commit().await?)
}

/// Adds the lines, durably, and returns whether they come behind the one that they should. Those that another process has
/// written meanwhile, or one that could not say so any more, stay as they are.
fn append(path: &Path, new: &[Line]) -> io::Result<bool> {
    let is_new = !path.exists();
    let mut file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    let lines = whole_lines(&mut file)?;
    let there: HashSet<&str> = lines.lines().collect();
    let digest = lines.lines().last().map(|line| Mac(crypto::sha256(line.as_bytes())));
    let mut new = new.iter().filter(|line| !there.contains(line.jws.as_str())).peekable();
    let follows = new.peek().is_none_or(|line| digest == line.previous);
    if !follows {
        tracing::error!(
            file = %path.display(),
            "the file of checkpoints does not end with the one before this: it was changed, or the database was \
             restored; run: keydesk audit verify"
        );
    }
    let text: String = new.flat_map(|line| [line.jws.as_str(), "\n"]).collect();
    file.seek(SeekFrom::End(0))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if is_new {
        belong_to_the_desk(path);
        let directory: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
        let here = directory.as_os_str().is_empty();
        fs::File::open(if here { Path::new(".") } else { &directory })?.sync_all()?;
    }
    Ok(follows)
}

/// A file that root makes at the command line is to be the server's, whose directory it is in.
fn belong_to_the_desk(path: &Path) {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(owner) = fs::metadata(directory) {
        // Only root can, and only for root is it needed.
        let _ = std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Cuts off a line that was not written to its end, and returns the last whole ones.
fn whole_lines(file: &mut fs::File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    let begin = length.saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    if whole < tail.len() {
        file.set_len(begin + u64::try_from(whole).unwrap_or(0))?;
    }
    Ok(String::from_utf8_lossy(&tail[..whole]).into_owned())
}
