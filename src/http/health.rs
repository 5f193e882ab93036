//! `/health` and `/health/ready`: for supervisors and load balancers.

use std::collections::BTreeMap;

use poem::Request;
use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{
    Group,
    credential::{Public, app},
    payload::JsonBody,
};

/// The process is up.
#[derive(Object)]
struct Health {
    /// Always `healthy`.
    status: String,
}

/// Whether the desk can serve, and if not, what is missing.
#[derive(Object)]
struct Readiness {
    /// `ready` or `not_ready`.
    status: String,
    /// Each dependency (`store`, `audit`, `checkpoints`, `signing_key`, `draining`) with `ok` or `failing`.
    checks: BTreeMap<String, String>,
}

#[derive(ApiResponse)]
enum ReadinessAnswer {
    /// Every dependency works.
    #[oai(status = 200)]
    Ready(JsonBody<Readiness>),
    /// A dependency is failing, or the desk is about to stop.
    #[oai(status = 503)]
    NotReady(
        JsonBody<Readiness>,
        /// After how many seconds to ask again.
        #[oai(header = "Retry-After")]
        String,
    ),
}

/// Health.
pub(super) struct HealthApi;

#[OpenApi]
impl HealthApi {
    /// Is the process up?
    ///
    /// Touches nothing: a failing database does not make it fail. For liveness probes.
    #[oai(path = "/health", method = "get", operation_id = "getHealth", tag = "Group::Health")]
    #[expect(clippy::unused_async, reason = "poem-openapi takes async functions only")]
    async fn health(&self, _anybody: Public) -> JsonBody<Health> {
        JsonBody::of(&serde_json::json!({ "status": "healthy" }))
    }

    /// Can the desk serve?
    ///
    /// For readiness probes and load balancers.
    #[oai(path = "/health/ready", method = "get", operation_id = "getReadiness", tag = "Group::Health")]
    async fn ready(&self, _anybody: Public, request: &Request) -> ReadinessAnswer {
        let checks = app(request).readiness().await;
        let ready = checks.iter().all(|check| check.ok);
        let named: BTreeMap<_, _> =
            checks.iter().map(|check| (check.name, if check.ok { "ok" } else { "failing" })).collect();
        let status = if ready { "ready" } else { "not_ready" };
        let body = JsonBody::of(&serde_json::json!({ "status": status, "checks": named }));
        if ready { ReadinessAnswer::Ready(body) } else { ReadinessAnswer::NotReady(body, "1".to_owned()) }
    }
}
