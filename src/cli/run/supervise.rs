//! Stands between whoever runs us and the command, where `exec` is not enough: with `--mask` and `--watch`.
//!
//! Seen from outside it is the command: signals reach it, each once, and its end is ours. What Ctrl-C makes at a terminal that
//! both of us have reaches it without us; where there is no terminal the command has a process group of its own, and at a
//! restart everything in that ends with it.

use std::{
    ffi::OsString,
    fs, io, mem,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{
        Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group, waitid,
    },
    termios::isatty,
};
use signal_hook::{
    consts::signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH},
    iterator::{SignalsInfo, exfiltrator::WithOrigin},
    low_level::siginfo::{Cause, Origin},
};

use super::{
    mask::Masker,
    not_started,
    stream::Stream,
    terminal::{Terminal, say},
};
use crate::cli::{
    failure::Failure,
    variables::{self, Given},
};

/// How often to look whether what the command has left behind has ended.
const GLANCE: Duration = Duration::from_millis(50);

/// What a supervisor waits for.
pub(super) enum Event {
    /// The command has ended.
    Ended,
    /// Somebody sent us a signal.
    Signal(Origin),
    /// It is to be started again with these keys.
    Again(Vec<Given>),
    /// It is to be stopped, for this reason.
    Stop(String),
}

/// How the command ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Code(u8),
    Signal(i32),
}

/// What comes after the command's end.
enum Next {
    End,
    Again(Vec<Given>),
    Fail(String),
}

/// The command, and what stands around it.
pub(super) struct Supervisor<'a> {
    program: &'a OsString,
    arguments: &'a [OsString],
    is_masked: bool,
    grace: Duration,
    terminal: Option<Terminal>,
    streams: Vec<Stream>,
    /// Whether the command is in a process group of its own.
    is_apart: bool,
    /// All keys that a command was given: an old one may still be printed.
    given: Vec<Given>,
    sender: Sender<Event>,
}

impl<'a> Supervisor<'a> {
    /// Ready to run this command. Signals are caught from here on.
    pub(super) fn new(
        (program, arguments): (&'a OsString, &'a [OsString]),
        is_masked: bool,
        grace: Duration,
        sender: Sender<Event>,
    ) -> Result<Self, Failure> {
        catch_signals(sender.clone()).map_err(|error| Failure::because("cannot catch signals", &error))?;
        let terminal = if is_masked {
            Terminal::open().map_err(|error| Failure::because("cannot open a terminal", &error))?
        } else {
            None
        };
        if let Some(terminal) = &terminal {
            terminal.pass_on().map_err(|error| Failure::because("cannot pass on what is typed", &error))?;
        }
        let is_apart = terminal.is_some() || fs::File::open("/dev/tty").is_err();
        let streams = Vec::new();
        Ok(Self {
            program,
            arguments,
            is_masked,
            grace,
            terminal,
            streams,
            is_apart,
            given: Vec::new(),
            sender,
        })
    }

    /// Runs it to its end, and again as often as it is told to.
    pub(super) fn run(mut self, given: Vec<Given>, events: &Receiver<Event>) -> Result<End, Failure> {
        let mut child = self.start(given)?;
        let mut next = Next::End;
        let mut deadline: Option<Instant> = None;
        loop {
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let event = match patience {
                Some(patience) => events.recv_timeout(patience),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Ended) => {
                    let status = child.wait().map_err(|error| Failure::because("cannot wait", &error))?;
                    match mem::replace(&mut next, Next::End) {
                        Next::End => return Ok(self.finish(status)),
                        Next::Again(given) => {
                            self.sweep(&child, deadline.take());
                            child = self.start(given)?;
                        }
                        Next::Fail(why) => {
                            self.sweep(&child, deadline.take());
                            self.finish(status);
                            return Err(Failure::Failed(why));
                        }
                    }
                }
                Ok(Event::Signal(origin)) => {
                    self.pass(&origin, &child);
                    let ends = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].contains(&origin.signal);
                    if ends && matches!(next, Next::Again(_)) {
                        next = Next::End;
                    }
                }
                Ok(Event::Again(given)) if matches!(next, Next::Fail(_)) => drop(given),
                Ok(Event::Again(given)) => {
                    next = Next::Again(given);
                    deadline = deadline.or_else(|| Some(self.ask_to_end(&child)));
                }
                Ok(Event::Stop(why)) => {
                    next = Next::Fail(why);
                    deadline = deadline.or_else(|| Some(self.ask_to_end(&child)));
                }
                Err(_) => {
                    say("the command does not end: it is killed");
                    deadline = None;
                    self.signal(&child, Signal::KILL);
                }
            }
        }
    }

    fn start(&mut self, given: Vec<Given>) -> Result<Child, Failure> {
        let failed = |error: &io::Error| {
            let (line, code) = not_started(self.program, error);
            Failure::Ended { line: Some(line), code }
        };
        let mut command = if let Some(terminal) = &self.terminal {
            terminal.command(self.program, self.arguments).map_err(|error| failed(&error))?
        } else {
            let mut command = Command::new(self.program);
            command.args(self.arguments);
            command
        };
        if self.terminal.is_none() && self.is_apart {
            command.process_group(0);
        }
        variables::set(&mut command, &given);
        let on_terminal = self.terminal.is_some();
        if self.is_masked && !on_terminal {
            command.stdout(Stdio::piped());
        }
        if self.is_masked && !(on_terminal && isatty(io::stderr())) {
            command.stderr(Stdio::piped());
        }
        self.given.extend(given);
        // Before there is anything to mask.
        for stream in &self.streams {
            stream.mask(Masker::new(&self.given)?);
        }
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        drop(command);
        self.look_after(&mut child)?;
        Ok(child)
    }

    /// Masks what it prints, and waits for its end.
    fn look_after(&mut self, child: &mut Child) -> Result<(), Failure> {
        let cannot = |error: &io::Error| Failure::because("cannot pass on what the command prints", error);
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let is_first = self.streams.is_empty();
        let shared = self.terminal.as_ref().filter(|_| is_first).map(|terminal| terminal.ours.try_clone());
        let shared = shared.transpose().map_err(|error| cannot(&error))?.map(OwnedFd::from);
        for from in stdout.into_iter().chain(shared) {
            let to = io::stdout().as_fd().try_clone_to_owned().map_err(|error| cannot(&error))?;
            self.streams.push(Stream::begin(from, to, Masker::new(&self.given)?));
        }
        if let Some(from) = stderr {
            let to = io::stderr().as_fd().try_clone_to_owned().map_err(|error| cannot(&error))?;
            self.streams.push(Stream::begin(from, to, Masker::new(&self.given)?));
        }
        let (pid, sender) = (pid(child), self.sender.clone());
        thread::spawn(move || {
            // Only looks: who waits here must not take away the process that is signalled there.
            let look = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(look(), Err(rustix::io::Errno::INTR)) {}
            let _ = sender.send(Event::Ended);
        });
        Ok(())
    }

    /// Passes a signal on.
    fn pass(&self, origin: &Origin, child: &Child) {
        if let Some(terminal) = &self.terminal {
            match origin.signal {
                SIGWINCH => return terminal.fit(),
                SIGCONT => {
                    terminal.hand_through();
                    return terminal.fit();
                }
                _ => {}
            }
        }
        let has_it_already = origin.cause == Cause::Kernel && !self.is_apart;
        if !has_it_already && let Some(signal) = Signal::from_named_raw(origin.signal) {
            let _ = kill_process(pid(child), signal);
        }
    }

    /// Asks the command to end, and says until when it may take.
    fn ask_to_end(&self, child: &Child) -> Instant {
        let _ = kill_process(pid(child), Signal::TERM);
        Instant::now() + self.grace
    }

    /// To the command and, if it is in a group of its own, to all in that.
    fn signal(&self, child: &Child, signal: Signal) {
        let in_group = self.is_apart && kill_process_group(pid(child), signal).is_ok();
        if !in_group {
            let _ = kill_process(pid(child), signal);
        }
    }

    /// Ends what the command has left behind in its group, until `deadline` with patience.
    fn sweep(&mut self, child: &Child, deadline: Option<Instant>) {
        let group = pid(child);
        if self.is_apart && kill_process_group(group, Signal::TERM).is_ok() {
            let is_there = || test_kill_process_group(group).is_ok();
            while deadline.is_some_and(|deadline| Instant::now() < deadline) && is_there() {
                thread::sleep(GLANCE);
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        // What goes through pipes ends with the command.
        if self.terminal.is_none() {
            mem::take(&mut self.streams).iter().for_each(Stream::close);
        }
    }

    /// Shows what is still to be shown, and gives the terminal back.
    fn finish(mut self, status: ExitStatus) -> End {
        if let Some(terminal) = &mut self.terminal {
            terminal.close();
        }
        self.streams.into_iter().for_each(Stream::wait);
        drop(self.terminal);
        match status.signal() {
            Some(signal) => End::Signal(signal),
            None => End::Code(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Catches what is passed on, and the change of the window.
fn catch_signals(sender: Sender<Event>) -> io::Result<()> {
    let ignored = ignored_signals();
    let caught = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT];
    // What we were started to ignore, as `nohup` does, the command is to ignore too.
    let caught = caught.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = SignalsInfo::<WithOrigin>::new(caught)?;
    thread::spawn(move || signals.forever().map(Event::Signal).try_for_each(|event| sender.send(event)));
    Ok(())
}

/// A bit for each signal that is ignored, where the system tells.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
