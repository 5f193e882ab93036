//! A directory of its own for every test, and the program run in it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{engine::OwnDatabase, forger::Forger};

/// The password of the first admin.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A directory in which there may be a desk, and on PostgreSQL its database.
pub(crate) struct Place(TempDir, Option<OwnDatabase>);

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), OwnDatabase::empty())
    }

    /// A directory with a desk that was started and stopped once.
    pub(crate) fn with_desk() -> Self {
        let place = Self::new();
        assert_eq!(place.serve(&[("KEYDESK_ADMIN_PASSWORD", PASSWORD)]).stop(), 0);
        place
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Where the desk is, as the program calls it; on PostgreSQL the beginning of that.
    pub(crate) fn desk(&self) -> &str {
        self.1.as_ref().map_or("./keydesk-data/keydesk.db", OwnDatabase::name)
    }

    /// The same as a URL.
    pub(crate) fn url(&self) -> String {
        self.1.as_ref().map_or_else(|| format!("sqlite://{}", self.desk()), OwnDatabase::url)
    }

    /// All that is in the database.
    pub(crate) fn database(&self) -> Vec<u8> {
        match &self.1 {
            Some(own) => own.contents().into_bytes(),
            None => fs::read(self.path(self.desk())).unwrap(),
        }
    }

    /// Somebody who can write in the database.
    pub(crate) async fn forger(&self) -> Forger {
        match &self.1 {
            Some(own) => Forger::of(own).await,
            None => Forger::of_file(&self.path(self.desk())).await,
        }
    }

    /// The permissions of a file in it.
    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    pub(crate) fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The names of the files in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The program with these arguments. Nothing is inherited: a real key of whoever runs the tests must not be read.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keydesk"));
        command.args(arguments).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command.envs(self.1.as_ref().map(|own| ("DATABASE_URL", own.url())));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, &[], "")
    }

    /// The same, with variables and a standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], stdin: &str) -> Done {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that does not read it has closed the pipe, which is its right.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        self.must_with(arguments, "")
    }

    /// The same, with a standard input.
    pub(crate) fn must_with(&self, arguments: &[&str], stdin: &str) -> String {
        let done = self.run_with(arguments, &[], stdin);
        assert_eq!(done.code, 0, "keydesk {arguments:?}: {}", done.stderr);
        done.stdout
    }

    /// What a command prints with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.must(&arguments)).unwrap()
    }

    /// Starts a server on any free port, and waits until it says how to fetch a first key.
    pub(crate) fn serve(&self, variables: &[(&str, &str)]) -> Server {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(File::create(self.path("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (said, heard) = mpsc::channel();
        thread::spawn(move || lines.for_each(|line| drop(said.send(line))));
        let mut banner = String::new();
        while !banner.contains("/llm-keys'") {
            match heard.recv_timeout(PATIENCE) {
                Ok(line) => banner = banner + &line + "\n",
                Err(error) => panic!("no server, {error}: {banner}{}", read(&self.path("log"))),
            }
        }
        Server { child, banner }
    }
}

/// A running server; killed if the test ends before it.
pub(crate) struct Server {
    child: Child,
    /// What it printed when it was ready.
    pub(crate) banner: String,
}

impl Server {
    pub(crate) fn of(child: Child) -> Self {
        Self { child, banner: String::new() }
    }

    /// `http://` and its address.
    pub(crate) fn url(&self) -> &str {
        let begin = self.banner.find("serves http://").unwrap() + "serves ".len();
        self.banner[begin..].lines().next().unwrap()
    }

    /// Asks it to stop, as a service manager does, and returns its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file's text.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Waits until `check` holds.
pub(crate) fn eventually(what: &str, check: impl Fn() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < PATIENCE, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
