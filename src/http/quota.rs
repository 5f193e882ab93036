//! How much of a limit is left, on every answer of a limited operation (draft-ietf-httpapi-ratelimit-headers-10).

use poem::{
    Request,
    http::{HeaderMap, HeaderName, HeaderValue},
};

use super::observe::Visit;
use crate::app::limits::Meter;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The operations that are limited, for the specification.
pub(super) const LIMITED: [&str; 5] =
    ["issueToken", "revokeToken", "introspectToken", "listLlmKeys", "getLlmKey"];

/// What the limits say of a request.
pub(super) fn meter(request: &Request) -> &Meter {
    &Visit::of(request).meter
}

/// Tells the client, if a limit was asked.
pub(super) fn tell(meter: &Meter, headers: &mut HeaderMap) {
    let Some(quota) = meter.quota() else { return };
    let (limit, rate) = (quota.limit, quota.rate);
    let policy = format!("\"{limit}\";q={};w={}", rate.times, rate.seconds());
    let left = format!("\"{limit}\";r={};t={}", quota.remaining, quota.seconds);
    for (name, text) in [(RATELIMIT_POLICY, policy), (RATELIMIT, left)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}
