//! What can be wrong with the book.

use std::fmt;

use crate::{
    model::{Id, Timestamp},
    store::audit_events::ChainRow,
};

/// What happened to an event, or to what vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The event was changed after it was written.
    Changed,
    /// Events before it are gone.
    Missing,
    /// Events at the end of the stream are gone.
    Truncated,
    /// No desk wrote it.
    Inserted,
    /// It was written in another place.
    Moved,
    /// Another event once more.
    Copied,
    /// It is not the event that somebody named.
    Contradicted,
    /// The head of the stream is forged or gone.
    Head,
    /// A checkpoint is forged or gone.
    Checkpoint,
    /// A pruning record is forged.
    Pruning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Fault {
    /// What kind of thing.
    pub kind: Kind,
    /// In which stream.
    pub stream: Option<Id>,
    /// At which event of it.
    pub seq: Option<i64>,
    /// That event's identifier, if it is there.
    pub id: Option<Id>,
    /// When that event says that it was written.
    pub at: Option<Timestamp>,
    /// What is wrong, in words.
    pub what: String,
}

impl Fault {
    /// Whether it is what is found where the newest events are missing, as far as somebody knows of them.
    pub fn is_of_the_end(&self) -> bool {
        matches!(self.kind, Kind::Truncated | Kind::Head | Kind::Checkpoint)
    }

    /// With an event that is there.
    pub(super) fn at(row: &ChainRow, kind: Kind, what: String) -> Self {
        let (stream, seq) = row.place();
        let (id, at) = match row {
            ChainRow::Event(event) => (Some(event.id), Some(event.at)),
            ChainRow::Malformed { .. } => (None, None),
        };
        Self { kind, stream: Some(stream), seq: Some(seq), id, at, what }
    }

    /// With an event that is not there.
    pub(super) fn of(stream: Id, seq: i64, kind: Kind, what: String) -> Self {
        Self { kind, stream: Some(stream), seq: Some(seq), id: None, at: None, what }
    }

    /// With no event in particular.
    pub(super) fn general(kind: Kind, what: String) -> Self {
        Self { kind, stream: None, seq: None, id: None, at: None, what }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(stream), Some(seq)) = (self.stream, self.seq) {
            write!(f, "event {seq} of stream {stream}")?;
            if let Some(id) = self.id {
                write!(f, ", id {id}")?;
            }
            if let Some(at) = self.at {
                write!(f, ", of {at}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}
