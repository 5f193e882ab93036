//! What commands print: tables and sentences for people, JSON for programs.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _, Write as _},
};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use zeroize::Zeroizing;

use super::failure::{Failure, one_line};
use crate::{model::Timestamp, secret::Secret};

/// Prints data the way it was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether data is to be JSON.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// A text as it is, with a newline at its end.
    #[expect(clippy::unused_self, reason = "printing is what an Output does")]
    pub(super) fn text(self, mut text: String) -> Result<(), Failure> {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        print(&text)
    }

    /// A list: a table with these columns, or an array.
    pub(super) fn list<T: Serialize, const N: usize>(
        self,
        items: &[T],
        columns: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        if self.json {
            return print_json(&items);
        }
        let mut table = Table::new();
        // One line per item, however long: it can be searched, and an identifier stays whole.
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.map(|name| Cell::new(name.to_uppercase())));
        for item in items {
            table.add_row(row(item).map(|text| Cell::new(one_line(&text))));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        print(&format!("{}\n", table.trim_fmt()))
    }

    /// One thing: a sentence about it, or an object.
    pub(super) fn object(self, value: &impl Serialize, sentence: impl fmt::Display) -> Result<(), Failure> {
        if self.json { print_json(value) } else { print(&format!("{sentence}\n")) }
    }

    /// Something was done and there is no data to show: a sentence, or nothing.
    pub(super) fn done(self, sentence: impl fmt::Display) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(&format!("{sentence}\n")) }
    }

    /// Credentials that are shown this once: a line for each, or an object that holds them. `undo` says what to do if
    /// they cannot be shown, for then nobody will ever know them.
    #[expect(clippy::disallowed_methods, reason = "the new credentials are shown to who asked for them")]
    pub(super) fn credentials(
        self,
        value: &impl Serialize,
        lines: &[(&str, &Secret)],
        undo: impl fmt::Display,
    ) -> Result<(), Failure> {
        let shown = if self.json {
            print_json(value)
        } else {
            let mut text = Zeroizing::new(String::with_capacity(1024));
            for (name, secret) in lines {
                let _ = writeln!(text, "{name:<15}{}", secret.expose());
            }
            text.push_str("Keep it in a safe place now: it is not shown again.\n");
            print(&text)
        };
        shown.map_err(|failure| match failure {
            Failure::Output(error) => {
                Failure::Failed(format!("the new credentials could not be shown: {error}; {undo}"))
            }
            other => other,
        })
    }
}

/// A remark for the person at the terminal, which no program should read.
pub(super) fn hint(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How far something is that takes its time, for the person at the terminal.
pub(super) fn bar(what: &'static str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::hidden();
    if io::stderr().is_terminal() {
        let style =
            indicatif::ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} {msg}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
        bar.set_message(what);
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
    }
    bar
}

/// A moment as tables show it, to the minute, in UTC.
pub(super) fn minute(moment: Timestamp) -> String {
    shortened(moment, 16)
}

/// To the second.
pub(super) fn second(moment: Timestamp) -> String {
    shortened(moment, 19)
}

/// To the day.
pub(super) fn day(moment: Timestamp) -> String {
    shortened(moment, 10)
}

fn shortened(moment: Timestamp, length: usize) -> String {
    moment.to_string().chars().take(length).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = json(value).map_err(|error| Failure::because("cannot write JSON", &error))?;
    print_bytes(&text)
}

/// An object as lines of text. It may hold new credentials, so it is wiped after use.
pub(super) fn json(value: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    serde_json::to_writer_pretty(&mut *text, value)?;
    text.push(b'\n');
    Ok(text)
}

fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}
