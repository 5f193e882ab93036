//! `POST /token`: RFC 6749 §4.3, §4.4, §5.1, §5.2; RFC 9068.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use keydesk::model::Role;
use serde_json::{Value, json};

use crate::desk::{Desk, PASSWORD, START, header, json, open, operator};

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_password_gives_an_access_token_with_exactly_the_claims_of_rfc_9068() {
    let desk = Desk::open().await;
    desk.add_user("alice", Role::Member, &[]).await;
    let form = [("grant_type", "password"), ("username", "Alice"), ("password", PASSWORD), ("scope", "")];
    let response = desk.token_request(&form).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert_eq!(header(&response, "content-type"), "application/json");
    let request_id = header(&response, "x-request-id").to_owned();
    let mut body = json(response).await;
    let token = body["access_token"].take().as_str().unwrap().to_owned();
    assert!(body["refresh_token"].take().as_str().unwrap().starts_with("kd_rt_"));
    assert_eq!(
        body,
        json!({"access_token": null, "token_type": "Bearer", "expires_in": 600, "scope": "llm-keys:read",
               "refresh_token": null})
    );

    let keys = json(desk.get("/.well-known/jwks.json").send().await.unwrap()).await;
    assert_eq!(part(&token, 0), json!({"alg": "EdDSA", "typ": "at+jwt", "kid": keys["keys"][0]["kid"]}));
    let mut claims = part(&token, 1);
    assert!(
        claims["jti"].take().as_str().unwrap().len() == 73
            && claims["sub"].take().as_str().unwrap().len() == 36
    );
    assert_eq!(
        claims,
        json!({"iss": desk.url, "aud": "keydesk", "client_id": "keydesk", "iat": START, "exp": START + 600, "jti": null,
               "sub": null, "scope": "llm-keys:read", "username": "alice"})
    );
    let events = desk.events_of(&request_id).await;
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(
        (event.action.as_str(), event.outcome.as_str(), event.actor.as_str()),
        ("token.issue", "allowed", "alice")
    );
    assert_eq!(
        (event.credential.as_deref(), event.client_id.as_deref()),
        (Some("password"), Some("keydesk"))
    );
}

#[tokio::test]
async fn every_bad_request_has_its_rfc_6749_error() {
    let desk = Desk::open().await;
    let ok = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
    let without = |name: &str| ok.into_iter().filter(|(key, _)| *key != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| {
        let mut form = without(name);
        form.push((name, value));
        form
    };
    let twice = |name: &'static str, value: &'static str| {
        let mut form = ok.to_vec();
        form.push((name, value));
        form
    };
    let cases = [
        (without("grant_type"), 400, "invalid_request"),
        (without("username"), 400, "invalid_request"),
        (without("password"), 400, "invalid_request"),
        (with("password", ""), 400, "invalid_request"),
        (with("grant_type", "authorization_code"), 400, "unsupported_grant_type"),
        (with("grant_type", "PASSWORD"), 400, "unsupported_grant_type"),
        (with("password", "wrong wrong wrong wrong"), 400, "invalid_grant"),
        (with("username", "nobody"), 400, "invalid_grant"),
        (with("username", "no body"), 400, "invalid_grant"),
        (with("username", "a\r\nb"), 400, "invalid_request"),
        (with("scope", "*"), 400, "invalid_scope"),
        (with("scope", "Admin"), 400, "invalid_scope"),
        (with("scope", "admin  llm-keys:read"), 400, "invalid_scope"),
        (twice("username", "admin"), 400, "invalid_request"),
        (twice("grant_type", ""), 400, "invalid_request"),
        (with("client_id", "somebody"), 401, "invalid_client"),
        (with("client_secret", "kd_cs_x"), 401, "invalid_client"),
        (with("grant_type", "client_credentials"), 401, "invalid_client"),
    ];
    for (form, status, error) in cases {
        let response = desk.token_request(&form).await;
        assert_eq!(response.status(), status, "{form:?}");
        assert_eq!(header(&response, "cache-control"), "no-store");
        let challenged = header(&response, "www-authenticate").starts_with("Basic realm=");
        assert_eq!(challenged, status == 401, "{form:?}");
        let body = json(response).await;
        assert_eq!(body["error"], error, "{form:?}");
        assert_eq!(body.as_object().unwrap().len(), 2, "{form:?} gave {body}");
    }
    assert_eq!(
        desk.token_request(&with("client_id", "keydesk")).await.status(),
        200,
        "the public client may be named"
    );
}

#[tokio::test]
async fn parameters_count_only_in_a_form_in_the_body() {
    let desk = Desk::open().await;
    let url = format!("{}/token", desk.url);
    let form = format!("grant_type=password&username=admin&password={}", PASSWORD.replace(' ', "+"));
    let content = |kind: &'static str| desk.http.post(&url).header("content-type", kind).body(form.clone());
    let cases = [
        (content("application/json"), 400),
        (content("text/plain"), 400),
        (content("multipart/form-data; boundary=x"), 400),
        (desk.http.post(&url).body(form.clone()), 400),
        (
            desk.http
                .post(format!("{url}?{form}"))
                .header("content-type", "application/x-www-form-urlencoded"),
            400,
        ),
        (desk.http.post(format!("{url}?grant_type=password")).form(&[("username", "admin")]), 400),
        (content("application/x-www-form-urlencoded;charset=UTF-8"), 200),
    ];
    for (request, status) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        if status != 200 {
            assert_eq!(json(response).await["error"], "invalid_request");
        }
    }
    let response = desk.http.get(&url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "allow")), (405, "POST"));
}

#[tokio::test]
async fn a_wrong_login_teaches_nothing() {
    let desk = Desk::open().await;
    desk.add_user("carol", Role::Member, &[]).await;
    desk.app
        .disable(&operator(), keydesk::model::PrincipalKind::User, &"carol".parse().unwrap())
        .await
        .unwrap();
    desk.add_account("robot", &[]).await;
    let mut seen = Vec::new();
    for (user, password) in
        [("admin", "wrong password here"), ("nobody", PASSWORD), ("carol", PASSWORD), ("robot", PASSWORD)]
    {
        let form = [("grant_type", "password"), ("username", user), ("password", password)];
        let response = desk.token_request(&form).await;
        let mut headers = response.headers().clone();
        assert!(headers.remove("x-request-id").is_some() && headers.remove("date").is_some());
        seen.push((response.status(), format!("{headers:?}"), response.text().await.unwrap()));
    }
    assert!(seen.iter().all(|answer| *answer == seen[0]), "{seen:#?}");
    let reasons: Vec<_> = desk.events().await.into_iter().filter_map(|event| event.reason).take(4).collect();
    assert_eq!(reasons, ["unknown_user", "disabled", "unknown_user", "wrong_password"], "but the book knows");
}

#[tokio::test]
async fn a_name_that_nobody_has_is_not_written_down() {
    let desk = Desk::open().await;
    desk.token_request(&[
        ("grant_type", "password"),
        ("username", "hunter2-my-password"),
        ("password", PASSWORD),
    ])
    .await;
    let event = &desk.events().await[0];
    assert!(event.actor.starts_with("unknown:") && event.actor.len() == 24, "{}", event.actor);
    assert!(!serde_json::to_string(event).unwrap().contains("hunter2"));
}

#[tokio::test]
async fn a_role_bounds_the_scopes() {
    let desk = Desk::open().await;
    desk.add_user("alice", Role::Member, &[]).await;
    desk.add_user("olga", Role::Auditor, &[]).await;
    let cases = [
        ("alice", "llm-keys:read", 200),
        ("alice", "audit:read", 400),
        ("alice", "llm-keys:read admin", 400),
        ("alice", "llm-keys:write", 400),
        ("olga", "audit:read", 200),
        ("olga", "admin", 400),
        ("admin", "llm-keys:read llm-keys:write audit:read admin", 200),
    ];
    for (user, scope, status) in cases {
        let form = [("grant_type", "password"), ("username", user), ("password", PASSWORD), ("scope", scope)];
        let response = desk.token_request(&form).await;
        assert_eq!(response.status(), status, "{user} {scope}");
        let body = json(response).await;
        if status == 200 {
            assert_eq!(body["scope"], scope);
        } else {
            assert_eq!(body["error"], "invalid_scope");
        }
    }
}

#[tokio::test]
async fn a_service_account_authenticates_by_header_or_in_the_form_but_not_both() {
    let desk = Desk::open().await;
    let robot = desk.add_account("robot", &[]).await;
    let secret = open(&robot.client_secret);
    let url = format!("{}/token", desk.url);
    let grant = [("grant_type", "client_credentials")];
    let in_form = [("grant_type", "client_credentials"), ("client_id", "robot"), ("client_secret", secret)];

    let response = desk.http.post(&url).basic_auth("robot", Some(secret)).form(&grant).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let body = json(response).await;
    assert_eq!(body["refresh_token"], Value::Null);
    let claims = part(body["access_token"].as_str().unwrap(), 1);
    assert_eq!((&claims["client_id"], &claims["username"]), (&json!("robot"), &Value::Null));
    assert_eq!(desk.token_request(&in_form).await.status(), 200);

    let both = desk.http.post(&url).basic_auth("robot", Some(secret)).form(&in_form).send().await.unwrap();
    assert_eq!(json(both).await["error"], "invalid_request");
    let other = [("grant_type", "client_credentials"), ("client_id", "other")];
    let other = desk.http.post(&url).basic_auth("robot", Some(secret)).form(&other).send().await.unwrap();
    assert_eq!(json(other).await["error"], "invalid_request");
    let wrong =
        desk.http.post(&url).basic_auth("robot", Some(open(&robot.token))).form(&grant).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let password = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
    let password =
        desk.http.post(&url).basic_auth("robot", Some(secret)).form(&password).send().await.unwrap();
    assert_eq!(json(password).await["error"], "unauthorized_client");
    let empty = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
    let empty = desk.http.post(&url).basic_auth("", Some("")).form(&empty).send().await.unwrap();
    assert_eq!(empty.status(), 200, "Swagger UI sends an empty pair when it has no client");
}

#[tokio::test]
async fn a_rotated_client_secret_overlaps_as_long_as_asked() {
    let desk = Desk::open().await;
    let robot = desk.add_account("robot", &[]).await;
    let name = "robot".parse().unwrap();
    let new =
        desk.app.rotate_client_secret(&operator(), &name, std::time::Duration::from_hours(1)).await.unwrap();
    let works = async |secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", "robot"), ("client_secret", secret)];
        desk.token_request(&form).await.status() == 200
    };
    assert!(works(open(&robot.client_secret)).await && works(open(&new)).await);
    desk.clock.advance(std::time::Duration::from_hours(1));
    assert!(!works(open(&robot.client_secret)).await && works(open(&new)).await);
}

#[tokio::test]
async fn the_password_grant_can_be_switched_off() {
    let desk = Desk::open_with(|settings| settings.password_enabled = false).await;
    let form = [("grant_type", "password"), ("username", "admin"), ("password", PASSWORD)];
    assert_eq!(json(desk.token_request(&form).await).await["error"], "unsupported_grant_type");
    let metadata = json(desk.get("/.well-known/oauth-authorization-server").send().await.unwrap()).await;
    assert_eq!(metadata["grant_types_supported"], json!(["client_credentials", "refresh_token"]));
}

#[tokio::test]
async fn a_hash_with_old_parameters_is_renewed_at_login() {
    let desk = Desk::open().await;
    let old = "$argon2id$v=19$m=8,t=1,p=1$AQEBAQEBAQEBAQEBAQEBAQ$";
    let weak = argon2_hash(PASSWORD);
    assert!(weak.starts_with(old));
    let mut forger = desk.forger().await;
    forger.run(&format!("update principals set password_hash = '{weak}' where name = 'admin'")).await;
    desk.login("admin").await;
    let stored = forger.text("select password_hash from principals where name = 'admin'").await;
    assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    let actions: Vec<_> = desk.events().await.into_iter().map(|event| event.action).take(2).collect();
    assert_eq!(actions, ["token.issue", "user.rehash_password"]);
    desk.login("admin").await;
}

fn argon2_hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    weak.hash_password_with_salt(password.as_bytes(), &[1; 16]).unwrap().to_string()
}

#[tokio::test]
async fn a_flood_of_logins_is_told_to_come_back_and_key_reads_do_not_notice() {
    let desk = std::sync::Arc::new(Desk::open().await);
    desk.set_key("default", "openai", "sk-proj-0123456789").await;
    let token = desk.login("admin").await;
    let flood: Vec<_> = (0..120)
        .map(|_| {
            let desk = std::sync::Arc::clone(&desk);
            tokio::spawn(async move {
                let form =
                    [("grant_type", "password"), ("username", "admin"), ("password", "wrong wrong wrong")];
                let response = desk.token_request(&form).await;
                (response.status().as_u16(), header(&response, "retry-after").to_owned())
            })
        })
        .collect();
    let read = desk.get("/llm-keys").bearer_auth(&token).send().await.unwrap();
    assert_eq!(read.status(), 200);
    let mut answers = Vec::new();
    for task in flood {
        answers.push(task.await.unwrap());
    }
    let checked = answers.iter().filter(|(status, _)| *status == 400).count();
    assert_eq!(checked, 5, "five failures are free, however many are tried at once");
    assert!(answers.iter().all(|(status, wait)| *status == 400 || (*status == 429 && !wait.is_empty())));
}
