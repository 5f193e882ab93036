//! What the command prints, on its way through the mask.
//!
//! One thread for each stream reads, masks and writes on. It ends with the stream; or, if something that the command has left
//! behind holds it open, when nothing has come for a while after the command's end. If nobody reads what we print, the command
//! learns of it as it would without us.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
    time::Timespec,
};
use zeroize::Zeroizing;

use super::mask::Masker;

/// How long something may wait to become a key before it is shown, if it tells nothing.
const MOMENT: Duration = Duration::from_millis(30);
/// How often to look whether the command has ended, and how long nothing may come after that.
const SILENCE: Duration = Duration::from_millis(500);

/// A stream under way.
pub(super) struct Stream {
    thread: thread::JoinHandle<()>,
    has_ended: Arc<AtomicBool>,
    masker: Arc<Mutex<Masker>>,
}

impl Stream {
    /// Masks what comes from `from` on its way to `to`.
    pub(super) fn begin(from: OwnedFd, to: OwnedFd, masker: Masker) -> Self {
        let (has_ended, masker) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(masker)));
        let pump =
            Pump { from, to: to.into(), masker: Arc::clone(&masker), has_ended: Arc::clone(&has_ended) };
        Self { thread: thread::spawn(move || pump.run()), has_ended, masker }
    }

    /// From now on these are masked.
    pub(super) fn mask(&self, masker: Masker) {
        let mut now = self.masker.lock().unwrap_or_else(PoisonError::into_inner);
        now.follow(masker);
    }

    /// The command has ended.
    pub(super) fn close(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Waits until all that it has printed is shown.
    pub(super) fn wait(self) {
        self.close();
        let _ = self.thread.join();
    }
}

struct Pump {
    from: OwnedFd,
    to: std::fs::File,
    masker: Arc<Mutex<Masker>>,
    has_ended: Arc<AtomicBool>,
}

impl Pump {
    fn run(mut self) {
        let mut printed = Zeroizing::new(vec![0; 64 * 1024]);
        let mut waits = false;
        loop {
            let had_ended = self.has_ended.load(Ordering::Relaxed);
            let is_readable = self.is_readable(if waits { MOMENT } else { SILENCE });
            let read = if is_readable {
                match read(&self.from, &mut **printed) {
                    Err(Errno::INTR | Errno::AGAIN) => continue,
                    // The other side of a pseudo-terminal says EIO when the last has closed it.
                    Ok(0) | Err(_) => break,
                    Ok(read) => read,
                }
            } else if had_ended && !waits {
                break;
            } else {
                0
            };
            let mut masker = self.masker.lock().unwrap_or_else(PoisonError::into_inner);
            let mut out = Vec::with_capacity(read + 64);
            if read > 0 {
                masker.feed(&printed[..read], &mut out);
            } else {
                masker.pause(&mut out);
            }
            waits = masker.waits();
            drop(masker);
            if self.write(&out).is_err() {
                return;
            }
        }
        let mut out = Vec::new();
        self.masker.lock().unwrap_or_else(PoisonError::into_inner).finish(&mut out);
        let _ = self.write(&out);
    }

    fn is_readable(&self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).ok();
        let ready = poll(&mut [PollFd::new(&self.from, PollFlags::IN)], patience.as_ref());
        ready.is_ok_and(|ready| ready > 0)
    }

    /// Writes all of it, also to what somebody else has set not to wait.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
