//! `keydesk kek rotate`: a new key-encryption key takes the place of the old one, on one machine.
//!
//! The steps, each durable before the next: the new key is written to `kek.next`; the old file gets a second name,
//! `kek.previous`; `kek.next` is renamed to `kek`; every data key is wrapped by the new key; `kek.previous` is put aside as
//! `kek.retired-…`, for backups that are older. After each of them the desk opens, and from each of them a later call goes on:
//! a key that has never wrapped anything is only ever in `kek.next`, and one that wraps something never has no name.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use super::{Files, beside, directory_of, read, refuse, write_new};
use crate::{
    app::{
        Error, Surroundings,
        desk::{Database, Location, remove_draft, sync_directory},
        hex,
    },
    crypto::keyring::Kek,
    store::Alone,
};

/// A rotation whose files are in place: the desk can be opened to wrap its data keys.
#[derive(Debug)]
pub struct Rotation {
    files: Files,
    /// Whether an earlier call has put them there.
    pub resumed: bool,
    previous: [u8; 16],
    current: [u8; 16],
    /// Nobody else is at these files while it is held, nor replaces the key of this database from another machine.
    _alone: (fs::File, Option<Alone>),
}

/// A rotation that came to its end.
#[derive(Debug)]
pub enum Finished {
    /// Where the old key was put aside.
    Aside(PathBuf),
    /// The old key is where the operator says it is, and stays there.
    Stays(PathBuf),
}

impl Location {
    /// Puts the files in place, or finds them there because an earlier rotation was interrupted.
    pub async fn begin_kek_rotation(&self, surroundings: &Surroundings) -> Result<Rotation, Error> {
        self.must_exist().await?;
        let files = self.kek.clone();
        let alone = (files.hold_alone()?, self.hold_server_alone().await?);
        let (keks, rows) = self.checked().await?;
        let wraps = |kek: &Kek| rows.iter().any(|row| row.kek_id == kek.id());
        let (resumed, previous) = match keks.previous {
            Some(previous) if files.previous.is_some() && !wraps(&previous) => {
                return Err(Error::Refused(format!(
                    "no data key is wrapped by {} any more, so the rotation before is over; remove kek.previous_file \
                     from the configuration before the next one",
                    files.previous_path().display()
                )));
            }
            Some(previous) => (true, previous.id()),
            None => {
                files.replace(&keks.current, surroundings)?;
                (false, keks.current.id())
            }
        };
        let current = files.read()?.current.id();
        Ok(Rotation { files, resumed, previous, current, _alone: alone })
    }

    async fn hold_server_alone(&self) -> Result<Option<Alone>, Error> {
        let Database::Server(server) = &self.database else { return Ok(None) };
        server.hold_alone().await.map(Some).map_err(|error| self.unusable(error))
    }
}

impl Rotation {
    /// Puts the old key aside, once every data key is wrapped by the new one.
    pub async fn finish(self, location: &Location) -> Result<Finished, Error> {
        let path = self.files.previous_path();
        let left = location.data_keys().await?;
        if left.iter().any(|row| row.kek_id != self.current) {
            return Err(Error::Refused(
                "some data keys are not wrapped by the new key-encryption key; run the command again"
                    .to_owned(),
            ));
        }
        if self.files.previous.is_some() {
            return Ok(Finished::Stays(path));
        }
        let aside = beside(&self.files.current, &format!(".retired-{}", &hex(&self.previous)[..8]));
        fs::rename(&path, &aside).map_err(|error| refuse("cannot rename", &path, &error))?;
        self.files.sync()?;
        Ok(Finished::Aside(aside))
    }
}

impl Files {
    /// The new key takes the place of `old`, which stays as the previous one.
    fn replace(&self, old: &Kek, surroundings: &Surroundings) -> Result<(), Error> {
        let (next, previous) = (self.next_path(), self.previous_path());
        if next.exists() {
            remove_draft(&next).map_err(|error| refuse("cannot remove the draft of", &next, &error))?;
        } else {
            write_new(&next, surroundings)?;
        }
        let kek = read(&next, "new key-encryption key")?;
        if kek.is_none_or(|kek| kek.id() == old.id()) {
            return Err(Error::Refused(format!("{} holds no new key; remove it", next.display())));
        }
        self.give_to_owner(&next)?;
        if !previous.exists() {
            fs::hard_link(&self.current, &previous)
                .map_err(|error| refuse("cannot give a second name to", &self.current, &error))?;
        }
        self.sync()?;
        fs::rename(&next, &self.current).map_err(|error| refuse("cannot replace", &self.current, &error))?;
        self.sync()
    }

    /// Whoever could read the old file can read the new one: the server may run as somebody else than the operator.
    fn give_to_owner(&self, next: &Path) -> Result<(), Error> {
        let copy = || {
            let (old, new) = (fs::metadata(&self.current)?, fs::metadata(next)?);
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                chown(next, Some(old.uid()), Some(old.gid()))?;
            }
            fs::set_permissions(next, old.permissions())
        };
        copy().map_err(|error| refuse("cannot give the new key to the owner of the old one:", next, &error))
    }

    fn sync(&self) -> Result<(), Error> {
        let directory = directory_of(&self.current);
        sync_directory(directory).map_err(|error| refuse("cannot write to", directory, &error))
    }

    /// Held by one rotation at a time, on the directory, so that no file is left behind.
    fn hold_alone(&self) -> Result<fs::File, Error> {
        let directory = directory_of(&self.current);
        let file = fs::File::open(directory).map_err(|error| refuse("cannot open", directory, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::Refused("another `keydesk kek rotate` is at work on the same files".to_owned()))
            }
            Err(fs::TryLockError::Error(error)) => Err(refuse("cannot lock", directory, &error)),
        }
    }
}
