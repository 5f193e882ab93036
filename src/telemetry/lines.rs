//! Lines of the log on their way to whoever reads them.
//!
//! A line never contains a control character that came from outside. A reader who stops reading, or a pipe that breaks,
//! never stops the server: lines wait in a bounded queue, and when it is full they are dropped and counted.

use std::{
    fmt::Write as _,
    io, iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait to be written.
const QUEUE: usize = 4096;
/// About how many bytes of them are written at once.
const PIECE: usize = 64 * 1024;
/// For how long lines are gathered: to be woken for each of them would cost more than they do.
const GATHER: Duration = Duration::from_millis(5);

/// Lines on their way to the reader.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

enum Entry {
    Line(String),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes.
    pub(super) fn start(out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let (entries, waiting) = mpsc::sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(out, &waiting, &counter))?;
        Ok(Self { entries, dropped })
    }

    /// Waits until what is there is written, at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let (written, done) = mpsc::sync_channel(1);
        if self.entries.try_send(Entry::Flush(written)).is_ok() {
            let _ = done.recv_timeout(patience);
        }
    }
}

fn write(mut out: impl io::Write, waiting: &Receiver<Entry>, dropped: &AtomicU64) {
    let (mut piece, mut gather) = (Vec::with_capacity(PIECE), true);
    while let Ok(first) = waiting.recv() {
        if gather && matches!(first, Entry::Line(_)) {
            thread::sleep(GATHER);
        }
        let mut flushed = None;
        for entry in iter::once(first).chain(waiting.try_iter()) {
            match entry {
                Entry::Line(line) => piece.extend_from_slice(line.as_bytes()),
                Entry::Flush(written) => flushed = Some(written),
            }
            if flushed.is_some() || piece.len() >= PIECE {
                break;
            }
        }
        // Who does not read the log any more has decided so; the desk goes on.
        let _ = out.write_all(&piece);
        // When there are more already, nobody is woken.
        gather = piece.len() < PIECE;
        piece.clear();
        if let Some(written) = flushed {
            let _ = written.send(());
        }
        let lines = dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines of this log were dropped, because nobody read it fast enough");
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> &'a Queue {
        self
    }
}

/// Takes one whole line at a time, which is how the subscriber writes.
impl io::Write for &Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(harmless(&String::from_utf8_lossy(bytes)))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line with every control character, and the two other characters that end a line in Unicode, written as `\u00XX`,
/// which is also right inside a JSON string.
fn harmless(line: &str) -> String {
    let body = line.strip_suffix('\n').unwrap_or(line);
    if body.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return [body, "\n"].concat();
    }
    let mut out = String::with_capacity(line.len() + 1);
    for c in body.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use io::Write as _;

    use super::*;

    #[test]
    fn no_control_character_reaches_the_reader() {
        let line = "user=\u{1b}[2Jbob\r\nforged\u{7f}\u{9b}\u{2028}end\n";
        assert_eq!(harmless(line), "user=\\u001b[2Jbob\\u000d\\u000aforged\\u007f\\u009b\\u2028end\n");
    }

    /// A reader that never reads.
    struct Blocked;

    impl io::Write for Blocked {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_reading_stops_nobody() {
        let queue = Queue::start(Blocked).unwrap();
        for _ in 0..QUEUE + 10 {
            (&queue).write_all(b"line\n").unwrap();
        }
        assert!(queue.dropped.load(Ordering::Relaxed) >= 9, "what does not fit is dropped and counted");
        queue.flush(Duration::from_millis(10));
    }
}
