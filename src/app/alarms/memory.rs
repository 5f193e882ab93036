//! What the rules remember so as not to ask the database again.
//!
//! The database holds everything that is in here, so that it may be forgotten at any time; what a transaction writes comes in only
//! when that has succeeded. Other processes write there, too: what is remembered may be behind, never ahead.

use std::collections::HashMap;

use crate::model::{Id, Timestamp};

/// How much of each kind is remembered: some ten megabytes.
const MOST: usize = 1 << 17;

/// Begins empty.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// When a principal was seen in a network.
    pub(super) seen: HashMap<(Id, String), Timestamp>,
    /// The most key reads of a principal in any hour before this one. Who has read none is not among them: that changes with
    /// the first.
    pub(super) busiest: HashMap<(Id, i64), i64>,
}

/// Sees that so many more fit in.
pub(super) fn make_room<K, V>(kind: &mut HashMap<K, V>, more: usize) {
    if kind.len() + more > MOST {
        kind.clear();
    }
}
