//! What the client keeps between two commands: small files below `$XDG_STATE_HOME/keydesk`, sealed to the machine.
//!
//! [`MachineKey`] says against whom the seal helps and against whom it does not. Files are written whole or not at all, and
//! are readable by their owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    environment::Environment,
    error::{Error, Kind},
};
use crate::{
    crypto::{SystemEntropy, machine::MachineKey},
    model::entropy,
};

const SALT: &str = "salt";
/// Longer than whoever holds a lock may wait for the desk.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The directory.
#[derive(Debug)]
pub(super) struct State(PathBuf);

/// What is written into a file to hold its room: more than a session needs.
const ROOM: [u8; 8 * 1024] = [0; 8 * 1024];

/// Room on the disk for what is to be kept under a name, so that there will be no lack of it. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room(PathBuf);

/// What nobody else does meanwhile; released when it is dropped, also by the end of the process.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl State {
    pub(super) fn open(environment: &Environment) -> Result<Self, Error> {
        environment.directory("XDG_STATE_HOME", ".local/state").map(Self)
    }

    /// What is kept under `name`; nothing if there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let path = self.0.join(name);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::failed(format_args!("cannot read {}: {error}", path.display()))),
        };
        let key = self.key(false)?;
        match key.and_then(|key| key.open(name, &sealed).ok()) {
            Some(plain) => Ok(Some(plain)),
            None => Err(Error::log_in(format_args!(
                "{} cannot be opened: it was made on another machine or by another user, or was changed",
                path.display()
            ))),
        }
    }

    /// Keeps it under `name`, in place of what was there.
    pub(super) fn write(&self, name: &str, plain: &[u8]) -> Result<(), Error> {
        let path = self.0.join(name);
        let cannot =
            |error: io::Error| Error::failed(format_args!("cannot write {}: {error}", path.display()));
        make_private(&self.0).map_err(cannot)?;
        let Some(key) = self.key(true)? else { return Err(cannot(io::ErrorKind::NotFound.into())) };
        replace(&path, &key.seal(name, plain, &SystemEntropy)).map_err(cannot)
    }

    /// Makes sure that something can be kept under `name`, for whoever holds the lock of it and gets what they cannot get again.
    pub(super) fn room(&self, name: &str) -> Result<Room, Error> {
        let path = self.0.join(name).with_added_extension("room");
        let cannot =
            |error: io::Error| Error::failed(format_args!("cannot write {}: {error}", path.display()));
        make_private(&self.0).map_err(cannot)?;
        self.key(true)?;
        let room = Room(path.clone());
        write_new(&path, &ROOM).map_err(cannot)?;
        Ok(room)
    }

    /// Keeps it in the room that was made for it.
    pub(super) fn write_in(&self, room: &Room, name: &str, plain: &[u8]) -> Result<(), Error> {
        let path = self.0.join(name);
        let cannot =
            |error: io::Error| Error::failed(format_args!("cannot write {}: {error}", path.display()));
        let Some(key) = self.key(false)? else { return Err(cannot(io::ErrorKind::NotFound.into())) };
        overwrite(&room.0, &key.seal(name, plain, &SystemEntropy))
            .and_then(|()| put_in_place(&room.0, &path))
            .map_err(cannot)
    }

    /// Forgets what is kept under `name`.
    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::failed(format_args!("cannot remove {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody else has the lock of that name.
    pub(super) async fn lock(&self, name: &str) -> Result<Lock, Error> {
        let path = self.0.join(format!("{name}.lock"));
        let cannot =
            |error: io::Error| Error::failed(format_args!("cannot lock {}: {error}", path.display()));
        make_private(&self.0).map_err(cannot)?;
        let options = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = options.map_err(cannot)?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) if waited < LOCK_PATIENCE => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                    waited += LOCK_PAUSE;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        // Whoever has it waits for the desk, and this is what it is like when there is none.
                        Kind::Away,
                        format_args!("another keydesk holds {} for too long; try again", path.display()),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(cannot(error)),
            }
        }
    }

    /// The key of this user on this machine; `make`s its random part if there is none yet.
    fn key(&self, make: bool) -> Result<Option<MachineKey>, Error> {
        let path = self.0.join(SALT);
        let cannot = |error: io::Error| Error::failed(format_args!("cannot use {}: {error}", path.display()));
        let mut found = read_salt(&path).map_err(cannot)?;
        if found.is_none() && make {
            // Linked into its place, so that it is never there in part and the first of two stays.
            let fresh = temporary(&path);
            let linked = write_new(&fresh, &entropy::random::<32>(&SystemEntropy))
                .and_then(|()| fs::hard_link(&fresh, &path));
            let _ = fs::remove_file(&fresh);
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
                _ => found = read_salt(&path).map_err(cannot)?,
            }
        }
        Ok(found.map(|salt| MachineKey::new(&salt, &machine(), rustix::process::getuid().as_raw())))
    }
}

fn read_salt(path: &Path) -> io::Result<Option<Zeroizing<[u8; 32]>>> {
    match fs::read(path).map(Zeroizing::new) {
        Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(salt) => Ok(Some(Zeroizing::new(salt))),
            Err(_) => Err(io::Error::other("it does not hold 32 bytes; remove it, and log in again")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What tells this machine from others. Where there is no machine identity, as in many containers and on macOS, it is the name of the
/// host, which another machine may have, too.
fn machine() -> Vec<u8> {
    let files = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    let found = files.into_iter().filter_map(|path| fs::read(path).ok()).find(|id| id.len() >= 32);
    found.unwrap_or_else(|| rustix::system::uname().nodename().to_bytes().to_vec())
}

/// Makes a directory that only its owner can look into.
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    if directory.is_dir() { Ok(()) } else { DirBuilder::new().recursive(true).mode(0o700).create(directory) }
}

/// Puts a file in its place whole, for good, and readable by its owner only.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = temporary(path);
    let done = write_new(&fresh, bytes).and_then(|()| put_in_place(&fresh, path));
    if done.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    done
}

fn put_in_place(fresh: &Path, path: &Path) -> io::Result<()> {
    fs::rename(fresh, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension(format!("{}.tmp", std::process::id()))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes over what a file holds before it is cut, so that it never needs more room than it has, unless there is more to write.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
