//! The operating system's keyring.

#![expect(clippy::unused_async, reason = "there is no keyring yet")]

use super::error::Error;
use crate::secret::Secret;

pub(super) async fn keep(_account: &str, _token: &Secret) -> bool {
    false
}

pub(super) async fn find(_account: &str) -> Result<Option<Secret>, Error> {
    Ok(None)
}

pub(super) async fn forget(_account: &str) {}
