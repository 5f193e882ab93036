//! The server's environment, and how it gets rid of it.
//!
//! What a process was started with stays readable in `/proc/PID/environ` for as long as it runs, whatever it does to its
//! variables, and is inherited by whatever it starts. So `serve` starts its own program again in its place, without the
//! variables that concern us; they come along as standard input, through an anonymous file in memory that is emptied as
//! soon as it is read. The process identifier stays the same, and a service manager notices nothing. It takes two
//! milliseconds, and is done without such variables, too: how glibc divides memory can only be said before a program starts.

use std::io::{self, Write as _};

use crate::config::Environment;

/// What `serve` was started with; on Linux, the process's environment has none of it any more.
pub(super) fn take() -> Environment {
    #[cfg(target_os = "linux")]
    match linux::take() {
        Ok(environment) => return environment,
        // No reason to refuse service: those who could read it there can read our memory, too.
        Err(error) if !Environment::capture().is_empty() => {
            let _ = writeln!(
                io::stderr(),
                "keydesk: the secrets that were given as variables stay visible in /proc/{}/environ ({error}); give \
                 them as files, with NAME_FILE",
                std::process::id()
            );
        }
        Err(_) => {}
    }
    Environment::capture()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        env,
        ffi::OsString,
        fs::File,
        io::{self, Read as _, Seek as _, Write as _},
        os::unix::{ffi::OsStringExt as _, process::CommandExt as _},
        process::{Command, Stdio},
        thread,
    };

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use zeroize::Zeroizing;

    use crate::config::Environment;

    /// Set while the environment comes as standard input. Not for people.
    const HANDED_OVER: &str = "_KEYDESK_ENVIRONMENT";
    const STDIN: &str = "stdin";
    /// Into how many arenas glibc may divide memory. Left to itself it takes eight for each processor of the machine, and what
    /// was freed in one is lost to the others: under load that was more than all that was in use. So one for each processor
    /// that we may use, unless the operator has said something else.
    const ARENAS: &str = "MALLOC_ARENA_MAX";
    /// From which size on memory comes from the system and goes back to it, in bytes. Left to itself glibc learns from the first
    /// password that 19 MiB are usual, and keeps them, several times over.
    const LARGE: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1000000");

    pub(super) fn take() -> io::Result<Environment> {
        if env::var_os(HANDED_OVER).is_some_and(|place| place == STDIN) {
            return receive();
        }
        Err(start_again(&Environment::capture()))
    }

    /// Becomes the same program with the same arguments. Comes back only when that cannot be done.
    fn start_again(environment: &Environment) -> io::Error {
        let begin = || {
            let mut file = File::from(memfd_create("environment", MemfdFlags::CLOEXEC)?);
            for (name, value) in environment.iter() {
                file.write_all(&[name.as_bytes(), b"=", value.as_encoded_bytes(), b"\0"].concat())?;
            }
            file.rewind()?;
            Ok((env::current_exe()?, file))
        };
        let (program, file) = match begin() {
            Ok(ready) => ready,
            Err(error) => return error,
        };
        let mut arguments = env::args_os();
        let mut command = Command::new(program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        for (name, _) in environment.iter() {
            command.env_remove(name);
        }
        if env::var_os(ARENAS).is_none() {
            let processors = thread::available_parallelism().map_or(1, usize::from);
            command.env(ARENAS, processors.to_string());
        }
        if env::var_os(LARGE.0).is_none() {
            command.env(LARGE.0, LARGE.1);
        }
        command.args(arguments).env(HANDED_OVER, STDIN).stdin(Stdio::from(file)).exec()
    }

    /// Reads what was handed over, and leaves standard input empty.
    fn receive() -> io::Result<Environment> {
        let mut text = Zeroizing::new(Vec::new());
        io::stdin().lock().read_to_end(&mut text)?;
        ftruncate(io::stdin(), 0)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let variables = text.split(|byte| *byte == 0).filter_map(|variable| {
            let equals = variable.iter().position(|byte| *byte == b'=')?;
            let name = String::from_utf8(variable[..equals].to_vec()).ok()?;
            Some((name, OsString::from_vec(variable[equals + 1..].to_vec())))
        });
        Ok(variables.collect())
    }
}
