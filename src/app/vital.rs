//! Tasks without which the desk must not go on: the book's writer, the watch, what notices revocations.
//!
//! A panic in a request is that request's end. In one of these it would leave a desk that serves and no longer does what it
//! promises, so it ends the process: whoever started it starts it again, and the database is made for that.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    time::Duration,
};

/// The exit code of a program with a bug (`EX_SOFTWARE` of sysexits.h).
const BUG: i32 = 70;
/// How long the log has for its last line.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Does what `task` does, and ends the process if that panics. `name` is what the task does for the desk.
pub async fn vital<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    // Nothing of the task is looked at after a panic, so that it does not matter in which state that has left it.
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))).unwrap_or_else(|_| end(name))
    })
    .await
}

fn end(name: &str) -> ! {
    tracing::error!(
        task = name,
        "a task without which the desk must not go on has ended by a bug: the server stops; start it again, and report \
         the place that the line before names"
    );
    std::thread::sleep(LAST_WORDS);
    std::process::exit(BUG)
}
