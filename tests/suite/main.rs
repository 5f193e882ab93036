//! The desk through its front doors: the real program in a directory of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod cli;
mod support;
