//! `/admin/audit-events`: the book.

use poem::{Request, Result};
use poem_openapi::{Object, OpenApi, param::Query};

use crate::{
    app::AuditFilter,
    http::{
        Group,
        answer::Listing,
        credential::{Authenticated, DescribesOAuth2, Scopes, app},
        error::ApiError,
        payload::{JsonBody, list},
        query,
        schema::Word,
    },
    model::{Outcome, Timestamp},
};

/// One line of the book.
#[derive(Object)]
struct AuditEvent {
    /// When it was written.
    at: String,
    /// Its identifier.
    id: String,
    /// The process that wrote it; each process writes one stream.
    stream: String,
    /// Its place in the stream, from 1, without gaps.
    seq: i64,
    /// What was done: `noun.verb`.
    action: String,
    /// How it ended.
    outcome: Word<Outcome>,
    /// Who.
    actor: String,
    /// The principal's identifier, where the actor is one.
    #[oai(nullable)]
    principal_id: Option<String>,
    /// `user` or `service_account`, where the actor is one.
    #[oai(nullable)]
    principal_kind: Option<String>,
    /// Through which OAuth client.
    #[oai(nullable)]
    client_id: Option<String>,
    /// Proven by what.
    #[oai(nullable)]
    credential: Option<String>,
    /// To what.
    #[oai(nullable)]
    object: Option<String>,
    /// Which version or versions of it.
    #[oai(nullable)]
    version: Option<String>,
    /// What more there is to say: scopes, a role, what a grant covers.
    #[oai(nullable)]
    detail: Option<String>,
    /// From which address.
    source: String,
    /// The identifier of the request.
    request_id: String,
    /// Why it was refused or failed.
    #[oai(nullable)]
    reason: Option<String>,
    /// In the first event of a stream: the last events of other streams that no event had named yet.
    #[oai(nullable)]
    heads: Option<Vec<StreamHead>>,
    /// HMAC-SHA-256 over all of this and the predecessor's MAC; `null` in what is older than the chain.
    #[oai(nullable)]
    mac: Option<String>,
}

/// The last event of a stream.
#[derive(Object)]
struct StreamHead {
    /// The stream.
    stream: String,
    /// The number of its last event.
    seq: i64,
    /// That event's MAC.
    #[oai(nullable)]
    mac: Option<String>,
}

list! {
    /// Events, newest first.
    AuditEventList of AuditEvent
}

const FILTERS: [&str; 5] = ["principal", "action", "outcome", "since", "until"];

/// The book.
pub(in crate::http) struct AuditApi;

#[OpenApi(tag = "Group::AdminAudit")]
impl AuditApi {
    /// Read the book
    ///
    /// Newest first; every filter narrows.
    #[oai(path = "/admin/audit-events", method = "get", operation_id = "listAuditEvents")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter that the specification describes")]
    async fn list(
        &self,
        #[oai(scope = "Scopes::AuditRead")] _scheme: DescribesOAuth2,
        caller: Authenticated,
        request: &Request,
        /// Only what this one did: the name of a user or service account, or `os:NAME`.
        principal: Query<Option<String>>,
        /// Only this action, such as `token.issue`.
        action: Query<Option<String>>,
        /// Only what ended so.
        outcome: Query<Option<Word<Outcome>>>,
        /// Only from this moment on (RFC 3339).
        since: Query<Option<Word<Timestamp>>>,
        /// Only before this moment (RFC 3339).
        until: Query<Option<Word<Timestamp>>>,
        /// How many at most.
        #[oai(default = "query::usual_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
        /// The `next` of the page before.
        #[oai(validator(
            pattern = "^[0-9]{1,18}\\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\\.[0-9]{1,18}$"
        ))]
        after: Query<Option<String>>,
    ) -> Result<JsonBody<AuditEventList>, ApiError<Listing>> {
        let page = query::page(request, limit.0, after.0, &FILTERS)?;
        let filter = AuditFilter {
            actor: principal.0,
            action: action.0,
            outcome: outcome.0.map(|word| word.0.as_str().to_owned()),
            since: since.0.map(|word| word.0),
            until: until.0.map(|word| word.0),
        };
        Ok(JsonBody::of(&app(request).audit_events(&caller.0, filter, &page).await?))
    }
}
