//! Says what `keydesk --version` cannot know by itself: the commit, its date, the compiler and the target.
//!
//! Only a release is told its commit: a debug build would have to be made again after every one. Nothing here may fail a
//! build: without git, or outside a checkout, there is no commit to name. Nor does the time of the build matter, so that the
//! same source gives the same program.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KEYDESK_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR").unwrap_or_default());
    let checkout = variable("PROFILE").filter(|profile| profile == "release").and_then(|_| checkout(&root));
    // Where the checkout does not come along, as in a container, who builds says what it was.
    let commit = variable("KEYDESK_COMMIT").or_else(|| checkout.as_ref().map(|(commit, _)| commit.clone()));
    let moment = variable("SOURCE_DATE_EPOCH").or_else(|| checkout.map(|(_, moment)| moment));
    let compiler = variable("RUSTC").and_then(|rustc| said(Command::new(rustc).arg("--version")));
    for (name, value) in [
        ("KEYDESK_BUILD_COMMIT", commit),
        ("KEYDESK_BUILD_EPOCH", moment),
        ("KEYDESK_BUILD_RUSTC", compiler),
        ("KEYDESK_BUILD_TARGET", variable("TARGET")),
    ] {
        println!("cargo::rustc-env={name}={}", value.unwrap_or_default());
    }
}

/// The commit of the checkout in `root`, and its time. The sources of a package may lie inside of somebody else's.
fn checkout(root: &Path) -> Option<(String, String)> {
    let git = |arguments: &[&str]| said(Command::new("git").arg("-C").arg(root).args(arguments));
    let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    for path in ["HEAD", "logs/HEAD"] {
        println!("cargo::rerun-if-changed={}", root.join(git(&["rev-parse", "--git-path", path])?).display());
    }
    // What is compiled: whether it is what was committed.
    let sources = ["src", "migrations", "build.rs", "Cargo.toml", "Cargo.lock"];
    for path in sources {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    if !git(&[&["status", "--porcelain", "--"][..], &sources].concat())?.is_empty() {
        commit.push_str(", changed since");
    }
    Some((commit, git(&["log", "-1", "--format=%ct"])?))
}

/// What a program prints, if it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let done = command.output().ok().filter(|done| done.status.success())?;
    Some(String::from_utf8(done.stdout).ok()?.trim().to_owned())
}
