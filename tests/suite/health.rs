//! `/health`, and what is true of every response.

use serde_json::json;

use crate::desk::{Desk, header, json};

#[tokio::test]
async fn health_says_healthy_and_readiness_says_why_not() {
    let desk = Desk::open().await;
    let response = desk.get("/health").send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, "application/json"));
    assert_eq!(response.text().await.unwrap(), r#"{"status":"healthy"}"#);
    let ready = json(desk.get("/health/ready").send().await.unwrap()).await;
    let checks =
        json!({"store": "ok", "audit": "ok", "checkpoints": "ok", "signing_key": "ok", "draining": "ok"});
    assert_eq!(ready, json!({"status": "ready", "checks": checks}));
    desk.app.start_draining();
    let draining = desk.get("/health/ready").send().await.unwrap();
    assert_eq!(draining.status(), 503);
    assert_eq!(json(draining).await["checks"]["draining"], "failing");
    assert_eq!(desk.get("/health").send().await.unwrap().status(), 200);
}

/// A desk whose writer, watch or upkeep has died must not go on as if nothing were the matter.
#[tokio::test]
async fn a_bug_in_what_the_desk_needs_ends_the_process() {
    const CHILD: &str = "TEST_OF_VITAL_TASKS";
    if std::env::var_os(CHILD).is_some() {
        let task = async {
            tokio::task::yield_now().await;
            assert_eq!(std::env::var_os(CHILD), None, "this is the bug");
        };
        tokio::spawn(keydesk::app::vital::vital("test", task)).await.unwrap();
    }
    let name = "health::a_bug_in_what_the_desk_needs_ends_the_process";
    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = itself.args([name, "--exact"]).env(CHILD, "1").output().unwrap();
    assert_eq!(ended.status.code(), Some(70), "{ended:?}");
}

#[tokio::test]
async fn the_metadata_name_the_issuer_that_is_configured() {
    let desk = Desk::open_with(|settings| settings.issuer = "https://desk.example".to_owned()).await;
    let request =
        desk.get("/.well-known/oauth-authorization-server").header("x-forwarded-host", "evil.example");
    let response = request.send().await.unwrap();
    assert_eq!(header(&response, "cache-control"), "public, max-age=300");
    let metadata = json(response).await;
    assert_eq!(metadata["issuer"], "https://desk.example");
    assert_eq!(metadata["token_endpoint"], "https://desk.example/token");
    assert_eq!(metadata["jwks_uri"], "https://desk.example/.well-known/jwks.json");
    let keys = json(desk.get("/.well-known/jwks.json").send().await.unwrap()).await;
    let key = keys["keys"][0].as_object().unwrap();
    let mut members: Vec<_> = key.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"], "public members only");
}

#[tokio::test]
async fn errors_of_the_framework_have_our_form() {
    let desk = Desk::open().await;
    let url = |path: &str| format!("{}{path}", desk.url);
    let cases = [
        (desk.http.get(url("/nowhere/sk-CANARY")), 404),
        (desk.http.get(url("/LLM-KEYS")), 404),
        (desk.http.get(url("//llm-keys")), 404),
        (desk.http.get(url("/llm-keys/%ff")), 400),
        (desk.http.post(url("/llm-keys")), 405),
        (desk.http.delete(url("/health")), 405),
        (desk.http.request(reqwest::Method::OPTIONS, url("/llm-keys")), 405),
        (desk.http.request(reqwest::Method::TRACE, url("/llm-keys")), 405),
    ];
    for (request, status) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(!header(&response, "allow").is_empty(), status == 405);
        let id = header(&response, "x-request-id").to_owned();
        let body = json(response).await;
        assert_eq!((&body["status"], &body["request_id"]), (&json!(status), &json!(id)));
        assert!(!body.to_string().contains("CANARY"));
    }
}
