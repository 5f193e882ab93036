//! The book as a table for spreadsheets.

use std::borrow::Cow;

use crate::model::audit::RecordedEvent;

/// The names of the columns: those of the JSON.
pub(super) const COLUMNS: [&str; 19] = [
    "at",
    "id",
    "stream",
    "seq",
    "action",
    "outcome",
    "actor",
    "principal_id",
    "principal_kind",
    "client_id",
    "credential",
    "object",
    "version",
    "detail",
    "source",
    "request_id",
    "reason",
    "heads",
    "mac",
];

/// An event as a line of the table.
pub(super) fn cells(event: &RecordedEvent) -> [String; 19] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let cells = [
        event.at.to_string(),
        event.id.to_string(),
        event.stream.to_string(),
        event.seq.to_string(),
        event.action.clone(),
        event.outcome.clone(),
        event.actor.clone(),
        event.principal_id.map(|id| id.to_string()).unwrap_or_default(),
        text(&event.principal_kind),
        text(&event.client_id),
        text(&event.credential),
        text(&event.object),
        text(&event.version),
        text(&event.detail),
        event.source.clone(),
        event.request_id.clone(),
        text(&event.reason),
        text(&event.heads),
        event.mac.map(|mac| mac.to_string()).unwrap_or_default(),
    ];
    cells.map(|cell| harmless(&cell).into_owned())
}

/// A cell that no spreadsheet program takes for a formula: one that begins like one gets an apostrophe in front, which
/// says "this is text".
fn harmless(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        Cow::Owned(format!("'{cell}"))
    } else {
        Cow::Borrowed(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(harmless(formula), format!("'{formula}"));
        }
        for text in ["", "alice", "a=b", "2026-01-31", "'=1"] {
            assert_eq!(harmless(text), text);
        }
    }
}
