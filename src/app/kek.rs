//! The key-encryption key (KEK): its files, and how another takes its place while the desk works.
//!
//! Two files may hold one: `kek.file`, which wraps, and `kek.previous_file`, which only opens what it has wrapped before.
//! A desk opens when every data key is wrapped by one of the two. Servers then wrap by the first what the second wraps, one
//! row at a time (`rewrap.rs`), so that there is no moment at which the two files do not open the desk. `keydesk kek rotate`
//! makes the new file and moves the old one, in steps after each of which that holds too (`rotation.rs`).

mod rewrap;
mod rotation;
mod status;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

pub(super) use rewrap::Held;
pub use rotation::{Finished, Rotation};
pub use status::{KekRow, Stage, Status};

use super::{
    Error, Surroundings,
    desk::{beside, create_private_directory, refuse, remove_draft, write_private_file},
};
use crate::{
    crypto::keyring::{Kek, Keks},
    secret::Secret,
};

/// Where the KEK is, and the one before it.
#[derive(Clone, Debug)]
pub struct Files {
    /// The one that wraps.
    pub current: PathBuf,
    /// The one before it, where the operator says so. It is otherwise looked for beside the current one.
    pub previous: Option<PathBuf>,
}

impl Files {
    /// Where the previous KEK is if nobody says otherwise.
    pub fn usual_previous(current: &Path) -> PathBuf {
        beside(current, ".previous")
    }

    fn previous_path(&self) -> PathBuf {
        self.previous.clone().unwrap_or_else(|| Self::usual_previous(&self.current))
    }

    /// Where a new KEK waits until the file of the old one has another name, too.
    fn next_path(&self) -> PathBuf {
        beside(&self.current, ".next")
    }

    /// Reads what is there.
    pub(super) fn read(&self) -> Result<Keks, Error> {
        let current = self.read_current()?;
        let path = self.previous_path();
        let previous = match read(&path, "previous key-encryption key")? {
            None if self.previous.is_some() => {
                return Err(Error::Refused(format!(
                    "the previous key-encryption key {} is missing; put it there, or remove kek.previous_file if no \
                     data key is wrapped by it: `keydesk kek status` tells",
                    path.display()
                )));
            }
            // The old file has two names for a moment.
            Some(kek) if kek.id() == current.id() && self.next_path().exists() => None,
            Some(kek) if kek.id() == current.id() => {
                return Err(Error::Refused(format!(
                    "the previous key-encryption key {} holds the same key as {}; put the new key into the latter, or \
                     remove the former",
                    path.display(),
                    self.current.display()
                )));
            }
            found => found,
        };
        Ok(Keks { current, previous })
    }

    fn read_current(&self) -> Result<Kek, Error> {
        read(&self.current, "key-encryption key")?.ok_or_else(|| {
            Error::Refused(format!(
                "the key-encryption key {} is missing, and without it the database cannot be opened; restore the file \
                 from where you keep it",
                self.current.display()
            ))
        })
    }

    /// The KEK that is here, or a new one. Only for a desk that does not exist yet.
    pub(super) fn read_or_new(&self, surroundings: &Surroundings) -> Result<Keks, Error> {
        if self.current.exists() {
            remove_draft(&self.current)
                .map_err(|error| refuse("cannot remove the draft of", &self.current, &error))?;
        } else {
            let directory = directory_of(&self.current);
            create_private_directory(directory)
                .map_err(|error| refuse("cannot create", directory, &error))?;
            write_new(&self.current, surroundings)?;
        }
        self.read_current().map(Keks::from)
    }
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[expect(clippy::disallowed_methods, reason = "the new key is written to its file")]
fn write_new(path: &Path, surroundings: &Surroundings) -> Result<(), Error> {
    let text = Kek::generate(&*surroundings.entropy);
    write_private_file(path, &format!("{}\n", text.expose()))
        .map_err(|error| refuse("cannot write the key-encryption key", path, &error))
}

/// Reads a file, if it is there: it must be readable by its owner only, or be root's. `what` names it in refusals.
fn read(path: &Path, what: &str) -> Result<Option<Kek>, Error> {
    let unreadable = |error: &io::Error| refuse(&format!("cannot read the {what}"), path, error);
    let (mode, owner) = match fs::metadata(path) {
        Ok(metadata) => (metadata.permissions().mode() & 0o777, (metadata.uid(), metadata.gid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    };
    // How a service manager hands over a credential: root's own, and its access list shows as the group's permission. Or how
    // Kubernetes does: root's own, for a group that this process was put in.
    let is_credential = mode == 0o440 && owner.0 == 0 && (owner.1 == 0 || is_our_group(owner.1));
    if mode & 0o077 != 0 && !is_credential {
        return Err(Error::Refused(format!(
            "the {what} {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}",
            path = path.display()
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    let kek = Kek::from_text(&Secret::new(text))
        .map_err(|error| Error::Refused(format!("the {what} {} is of no use: {error}", path.display())))?;
    Ok(Some(kek))
}

fn is_our_group(group: u32) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    groups.into_iter().chain([rustix::process::getegid()]).any(|ours| ours.as_raw() == group)
}
