//! The file of a backup: written and read in one go, never held whole.
//!
//! A line of JSON says what it is. Behind it stands, packed with gzip, each table: a line with its name and columns, a line for
//! each row, and one with their number and digest. The last line is a MAC of everything before it, under a key of the desk, so
//! that a file that was cut off, changed or made by somebody else is told from a backup. What is secret in it is sealed as it
//! is in the database: without the key-encryption key, which is not in it, the file opens nothing.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::{
    app::{
        Error,
        desk::{refuse, sync_directory},
        hex,
    },
    crypto::{Sha256, keyring::Keyring},
    model::Timestamp,
};

/// The only format so far.
const FORMAT: u64 = 1;
/// No line is longer.
const MAX_LINE: u64 = 16 * 1024 * 1024;
/// What the MAC is for.
const PURPOSE: &str = "backup v1";

/// What a backup says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    keydesk_backup: u64,
    /// The version of the program that wrote it.
    pub keydesk: String,
    /// The schema of the database.
    pub schema: i64,
    /// Which key-encryption keys open what is sealed in it.
    pub kek: Vec<String>,
    /// When it was taken.
    pub at: Timestamp,
    /// How many rows there are in all tables.
    pub rows: u64,
    /// The number of the newest checkpoint.
    pub checkpoint: Option<i64>,
}

impl Header {
    pub(super) fn new(
        schema: i64,
        kek: Vec<String>,
        at: Timestamp,
        rows: u64,
        checkpoint: Option<i64>,
    ) -> Self {
        let keydesk = env!("CARGO_PKG_VERSION").to_owned();
        Self { keydesk_backup: FORMAT, keydesk, schema, kek, at, rows, checkpoint }
    }
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Begin {
    table: String,
    columns: Vec<String>,
}

impl Begin {
    fn of(table: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().copied().map(str::to_owned).collect();
        Self { table: table.to_owned(), columns }
    }
}

/// What a table holds, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sum {
    pub(super) rows: u64,
    sha256: String,
}

/// The same while it is added up.
#[derive(Default)]
pub(super) struct Tally {
    rows: u64,
    digest: Sha256,
}

impl Tally {
    /// Adds a row, as its line.
    pub(super) fn add(&mut self, line: &[u8]) {
        self.rows += 1;
        self.digest.update(line);
    }

    pub(super) fn sum(self) -> Sum {
        Sum { rows: self.rows, sha256: hex(&self.digest.finish()) }
    }
}

/// Whatever has a line, as that.
pub(super) fn line_of(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(Error::internal)?;
    line.push(b'\n');
    Ok(line)
}

/// Passes bytes on, and adds them up.
struct Summing<T> {
    inner: T,
    digest: Sha256,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a backup.
pub(super) struct Writer<W: Write> {
    packed: GzEncoder<Summing<W>>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, header: &Header) -> Result<Self, Error> {
        let mut out = Summing { inner: out, digest: Sha256::default() };
        out.write_all(&line_of(header)?).map_err(unwritten)?;
        Ok(Self { packed: GzEncoder::new(out, Compression::fast()) })
    }

    pub(super) fn begin(&mut self, table: &str, columns: &[&str]) -> Result<(), Error> {
        self.line(&line_of(&Begin::of(table, columns))?)
    }

    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        self.packed.write_all(line).map_err(unwritten)
    }

    pub(super) fn end(&mut self, sum: &Sum) -> Result<(), Error> {
        self.line(&line_of(sum)?)
    }

    /// Without this it is no backup.
    pub(super) fn finish(self, keyring: &Keyring) -> Result<(), Error> {
        let Summing { mut inner, digest } = self.packed.finish().map_err(unwritten)?;
        let mac = format!("{}\n", hex(&keyring.mac(PURPOSE, &digest.finish())));
        inner.write_all(mac.as_bytes()).and_then(|()| inner.flush()).map_err(unwritten)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unwritten(error: io::Error) -> Error {
    Error::Refused(format!("the backup cannot be written: {error}"))
}

impl<R: Read> Read for Summing<BufReader<R>> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.digest.update(&out[..read]);
        Ok(read)
    }
}

impl<R: Read> BufRead for Summing<BufReader<R>> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.digest.update(&self.inner.buffer()[..amount]);
        self.inner.consume(amount);
    }
}

/// Reads a backup. Nothing in it may be believed before [`Reader::finish`].
pub(super) struct Reader<R: Read> {
    unpacked: BufReader<GzDecoder<Summing<BufReader<R>>>>,
    pub(super) header: Header,
    line: Vec<u8>,
    /// Whether a table has been read to its end.
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Result<Self, Error> {
        let mut input = Summing { inner: BufReader::new(input), digest: Sha256::default() };
        let mut line = Vec::new();
        (&mut input).take(MAX_LINE).read_until(b'\n', &mut line).map_err(|error| unread(&error))?;
        let said: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
        match said.get("keydesk_backup").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => {}
            Some(format) => {
                return Err(Error::Refused(format!(
                    "the backup has format {format}, and this keydesk knows {FORMAT}: restore it with the version that \
                     wrote it, or a newer one"
                )));
            }
            None => return Err(Error::Refused("this is not a backup that keydesk has written".to_owned())),
        }
        let header = serde_json::from_value(said).map_err(|_| damaged())?;
        let unpacked = BufReader::with_capacity(128 * 1024, GzDecoder::new(input));
        Ok(Self { unpacked, header, line: Vec::new(), ended: true })
    }

    fn next(&mut self) -> Result<&[u8], Error> {
        self.line.clear();
        let read = (&mut self.unpacked).take(MAX_LINE).read_until(b'\n', &mut self.line);
        read.map_err(|error| unread(&error))?;
        if self.line.last() == Some(&b'\n') { Ok(&self.line) } else { Err(damaged()) }
    }

    pub(super) fn begin(&mut self, table: &str, columns: &[&str]) -> Result<(), Error> {
        let said: Begin = serde_json::from_slice(self.next()?).map_err(|_| damaged())?;
        self.ended = false;
        if said == Begin::of(table, columns) { Ok(()) } else { Err(damaged()) }
    }

    /// The line of the next row; `None` at the end of the table, which must be what was added up.
    pub(super) fn row(&mut self, tally: &mut Tally) -> Result<Option<&[u8]>, Error> {
        if self.ended {
            return Ok(None);
        }
        if self.next()?.starts_with(b"{") {
            let said: Sum = serde_json::from_slice(&self.line).map_err(|_| damaged())?;
            let read = Tally { rows: tally.rows, digest: tally.digest.clone() }.sum();
            self.ended = true;
            return if said == read { Ok(None) } else { Err(damaged()) };
        }
        tally.add(&self.line);
        Ok(Some(&self.line))
    }

    /// The end: is all of it what this desk has written?
    pub(super) fn finish(mut self, keyring: &Keyring) -> Result<(), Error> {
        if !self.unpacked.fill_buf().map_err(|error| unread(&error))?.is_empty() {
            return Err(damaged());
        }
        let Summing { mut inner, digest } = self.unpacked.into_inner().into_inner();
        let mac = format!("{}\n", hex(&keyring.mac(PURPOSE, &digest.finish())));
        let mut said = Vec::new();
        (&mut inner).take(MAX_LINE).read_to_end(&mut said).map_err(|error| unread(&error))?;
        if crate::crypto::equal_in_constant_time(&said, mac.as_bytes()) { Ok(()) } else { Err(damaged()) }
    }
}

pub(super) fn damaged() -> Error {
    Error::Refused(
        "the backup is damaged: it was cut off or changed since it was written; take another one".to_owned(),
    )
}

fn unread(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(),
        _ => Error::Refused(format!("the backup cannot be read: {error}")),
    }
}

/// Whether a file may be replaced by a backup: only by its name could one mean the database or its key instead.
pub(super) fn check_replaceable(path: &Path) -> Result<(), Error> {
    const BEGIN: &[u8] = br#"{"keydesk_backup""#;
    let mut begin = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BEGIN.len() as u64).read_to_end(&mut begin));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refuse("cannot read", path, &error)),
        Ok(_) if begin == BEGIN || begin.is_empty() => Ok(()),
        Ok(_) => Err(Error::Refused(format!(
            "{} is not a backup, and --force replaces only backups; choose another name",
            path.display()
        ))),
    }
}

/// A new file that only its owner can read. Until it is kept it has another name.
pub(super) struct Draft {
    path: PathBuf,
    partial: PathBuf,
    pub(super) file: fs::File,
}

impl Draft {
    /// An existing file is only replaced by `force`.
    pub(super) fn create(path: &Path, force: bool) -> Result<Self, Error> {
        if path.exists() && !force {
            return Err(Error::Refused(format!(
                "{} is there already; choose another name, or replace it with --force",
                path.display()
            )));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(refuse("cannot remove", &partial, &error));
            }
            _ => {}
        }
        let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial);
        let file = file.map_err(|error| refuse("cannot create", &partial, &error))?;
        Ok(Self { path: path.to_owned(), partial, file })
    }

    /// From now on it has its name, whatever happens to the power.
    pub(super) fn keep(self) -> Result<(), Error> {
        let kept = self.file.sync_all().and_then(|()| fs::rename(&self.partial, &self.path));
        let kept = kept.and_then(|()| sync_directory(self.path.parent().unwrap_or(Path::new("."))));
        kept.map_err(|error| refuse("cannot write", &self.path, &error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Kept ones have another name by now.
        let _ = fs::remove_file(&self.partial);
    }
}
