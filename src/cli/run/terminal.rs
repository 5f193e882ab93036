//! A terminal for the command: what it prints passes through us, and it still has one.
//!
//! The command gets a session of its own on a pseudo-terminal, of the size and in the modes of the real one. The real one hands
//! every key through as it is typed, so that Ctrl-C is a byte for the pseudo-terminal, which makes of it one signal for the
//! command. Between us and the command stands, for an instant, this program once more: only who is to have the terminal can
//! take it, and it does so as it becomes the command.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    process::{getpgrp, ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

use super::not_started;

/// How this program is called when it is to take the terminal on its standard output and become the command.
const TAKER: &str = "keydesk: taking the terminal";

/// Whether the real terminal hands keys through as they are typed: then a line needs its carriage return from us.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// The command's terminal, and ours.
pub(super) struct Terminal {
    /// Our side of the pseudo-terminal.
    pub(super) ours: File,
    /// Its other side. Held open, so that it stays while one command follows another.
    theirs: Option<OwnedFd>,
    /// How the pseudo-terminal is at the start of a command.
    modes: Termios,
    /// What is typed is passed on; how the real terminal was before.
    typed: Option<Termios>,
}

impl Terminal {
    /// Opens one if our standard output is a terminal.
    pub(super) fn open() -> io::Result<Option<Self>> {
        let stdout = io::stdout();
        if !isatty(&stdout) {
            return Ok(None);
        }
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
        let modes = tcgetattr(&stdout)?;
        let is_typed_at = tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        let typed = is_typed_at.then(|| tcgetattr(io::stdin())).transpose()?;
        let terminal = Self { ours: File::from(ours), theirs: Some(theirs), modes, typed };
        terminal.fit();
        terminal.hand_through();
        Ok(Some(terminal))
    }

    /// Passes on what is typed, for as long as we run; in the background nothing is typed at us.
    pub(super) fn pass_on(&self) -> io::Result<()> {
        if self.typed.is_none() {
            return Ok(());
        }
        let mut ours = self.ours.try_clone()?;
        thread::spawn(move || {
            let mut typed = [0; 1024];
            let mut stdin = io::stdin().lock();
            while let Ok(read @ 1..) = stdin.read(&mut typed) {
                if ours.write_all(&typed[..read]).is_err() {
                    break;
                }
            }
        });
        Ok(())
    }

    /// As large as the real one.
    pub(super) fn fit(&self) {
        if let Ok(size) = tcgetwinsize(io::stdout()) {
            let _ = tcsetwinsize(&self.ours, size);
        }
    }

    /// The real terminal passes every key on. Also after we were stopped: the shell has set it back.
    pub(super) fn hand_through(&self) {
        let Some(typed) = &self.typed else { return };
        let mut raw = typed.clone();
        raw.make_raw();
        if tcsetattr(io::stdin(), OptionalActions::Drain, &raw).is_ok() {
            IS_RAW.store(true, Ordering::Relaxed);
        }
    }

    /// A command that becomes `program` with the terminal as its own, in the modes of the real one.
    pub(super) fn command(&self, program: &OsString, arguments: &[OsString]) -> io::Result<Command> {
        let theirs = self.theirs.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let _ = tcsetattr(theirs, OptionalActions::Now, &self.modes);
        let mut command = Command::new(ourselves()?);
        command.arg0(TAKER).arg(program).args(arguments).stdout(theirs.try_clone()?);
        if isatty(io::stdin()) {
            command.stdin(theirs.try_clone()?);
        }
        if isatty(io::stderr()) {
            command.stderr(theirs.try_clone()?);
        }
        Ok(command)
    }

    /// No further command will have it: what is printed on it ends with the last who has it.
    pub(super) fn close(&mut self) {
        self.theirs = None;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(typed) = &self.typed {
            IS_RAW.store(false, Ordering::Relaxed);
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, typed);
        }
    }
}

/// The file that this process runs, also if another lies under its name by now.
fn ourselves() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { env::current_exe() }
}

/// If this process was started to take the terminal: does so, and becomes the command. Comes back with the exit code if it
/// cannot, and with nothing if it was started for something else.
pub(in crate::cli) fn become_its_owner() -> Option<u8> {
    let mut arguments = env::args_os();
    if arguments.next()? != TAKER {
        return None;
    }
    let program = arguments.next()?;
    let taken = setsid().and_then(|_| ioctl_tiocsctty(io::stdout().as_fd()));
    let error = match taken {
        Ok(()) => Command::new(&program).args(arguments).exec(),
        Err(error) => error.into(),
    };
    let (line, code) = not_started(&program, &error);
    say(&line);
    Some(code)
}

/// Tells the person something.
pub(super) fn say(line: &str) {
    let end = if IS_RAW.load(Ordering::Relaxed) { "\r\n" } else { "\n" };
    let _ = write!(io::stderr(), "keydesk: {}{end}", crate::cli::failure::one_line(line));
}
