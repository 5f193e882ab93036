//! The disk that holds the database: without room on it no event can be written, and no key leaves.

use super::App;

/// How much there is, and how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size in bytes.
    pub size: u64,
    /// What a program without privileges may still write, in bytes.
    pub free: u64,
}

impl App {
    /// The disk at this moment; `None` if it is another machine's, or the system does not say.
    pub fn disk(&self) -> Option<Disk> {
        let disk = rustix::fs::statvfs(self.store.file()?).ok()?;
        Some(Disk {
            size: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
        })
    }
}
