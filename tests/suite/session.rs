//! Refresh tokens, revocation, introspection (RFC 6749 §6, RFC 7009, RFC 7662), and the life of signing keys.

use std::time::Duration;

use keydesk::model::{PrincipalKind, Role};
use serde_json::{Value, json};

use crate::desk::{Desk, PASSWORD, header, json, open, operator};

/// A session's access and refresh token.
struct Tokens {
    access: String,
    refresh: String,
}

fn tokens(body: &Value) -> Tokens {
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Tokens { access: text("access_token"), refresh: text("refresh_token") }
}

async fn login(desk: &Desk, user: &str, scope: &str) -> Tokens {
    let form = [("grant_type", "password"), ("username", user), ("password", PASSWORD), ("scope", scope)];
    tokens(&json(desk.token_request(&form).await).await)
}

async fn refresh(desk: &Desk, token: &str) -> Result<Tokens, Value> {
    let response = desk.token_request(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await;
    let ok = response.status() == 200;
    let body = json(response).await;
    if ok { Ok(tokens(&body)) } else { Err(body["error"].clone()) }
}

async fn reads(desk: &Desk, access: &str) -> u16 {
    desk.get("/llm-keys").bearer_auth(access).send().await.unwrap().status().as_u16()
}

async fn post(desk: &Desk, path: &str, form: &[(&str, &str)]) -> reqwest::Response {
    desk.http.post(format!("{}{path}", desk.url)).form(form).send().await.unwrap()
}

#[tokio::test]
async fn each_refresh_token_is_good_for_one_exchange() {
    let desk = Desk::open().await;
    let first = login(&desk, "admin", "").await;
    let second = refresh(&desk, &first.refresh).await.unwrap();
    let third = refresh(&desk, &second.refresh).await.unwrap();
    assert!(first.refresh != second.refresh && second.refresh != third.refresh);
    assert_eq!(reads(&desk, &third.access).await, 200);
    // The one before the last, again within ten seconds: an answer was lost, and the same successor is given.
    let again = refresh(&desk, &second.refresh).await.unwrap();
    assert_eq!(again.refresh, third.refresh);
    // An older one: somebody has a copy. The session ends, with everything issued in it.
    assert_eq!(refresh(&desk, &first.refresh).await.err(), Some(json!("invalid_grant")));
    assert_eq!(refresh(&desk, &third.refresh).await.err(), Some(json!("invalid_grant")));
    for access in [&first.access, &second.access, &third.access, &again.access] {
        assert_eq!(reads(&desk, access).await, 401);
    }
    let events = desk.events().await;
    let attack = events.iter().find(|event| event.action == "refresh_token.reuse").unwrap();
    assert_eq!((attack.actor.as_str(), attack.outcome.as_str()), ("admin", "denied"));
}

#[tokio::test]
async fn a_spent_token_is_an_attack_after_ten_seconds() {
    let desk = Desk::open().await;
    let first = login(&desk, "admin", "").await;
    let second = refresh(&desk, &first.refresh).await.unwrap();
    desk.clock.advance(Duration::from_secs(10));
    assert_eq!(refresh(&desk, &first.refresh).await.err(), Some(json!("invalid_grant")));
    assert_eq!(refresh(&desk, &second.refresh).await.err(), Some(json!("invalid_grant")));
}

#[tokio::test]
async fn a_session_ends_when_unused_and_in_any_case() {
    let desk = Desk::open().await;
    let unused = login(&desk, "admin", "").await;
    desk.clock.advance(Duration::from_hours(7 * 24));
    assert!(refresh(&desk, &unused.refresh).await.is_err(), "seven days without use");
    let mut used = login(&desk, "admin", "").await;
    for _ in 0..5 {
        desk.clock.advance(Duration::from_hours(6 * 24));
        match refresh(&desk, &used.refresh).await {
            Ok(next) => used = next,
            Err(error) => {
                assert_eq!(error, "invalid_grant");
                return;
            }
        }
    }
    panic!("the session outlived thirty days");
}

#[tokio::test]
async fn a_refresh_narrows_but_never_widens() {
    let desk = Desk::open().await;
    desk.add_user("olga", Role::Auditor, &[]).await;
    let session = login(&desk, "olga", "llm-keys:read audit:read").await;
    let with = |scope: &'static str| {
        [("grant_type", "refresh_token"), ("refresh_token", &session.refresh), ("scope", scope)]
    };
    let wider = json(desk.token_request(&with("llm-keys:read admin")).await).await;
    assert_eq!(wider["error"], "invalid_scope");
    let narrower = json(desk.token_request(&with("audit:read")).await).await;
    assert_eq!(narrower["scope"], "audit:read");
    let next = refresh(&desk, narrower["refresh_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(reads(&desk, &next.access).await, 403, "granted on no project, but the scope is whole again");
}

#[tokio::test]
async fn a_refresh_token_is_nothing_else() {
    let desk = Desk::open().await;
    let session = login(&desk, "admin", "").await;
    assert_eq!(reads(&desk, &session.refresh).await, 401);
    assert_eq!(
        desk.get("/llm-keys").header("x-api-key", &session.refresh).send().await.unwrap().status(),
        401
    );
    assert!(refresh(&desk, &session.access).await.is_err());
    let robot = desk.add_account("robot", &[]).await;
    let url = format!("{}/token", desk.url);
    let form = [("grant_type", "refresh_token"), ("refresh_token", session.refresh.as_str())];
    let stolen = desk
        .http
        .post(url)
        .basic_auth("robot", Some(open(&robot.client_secret)))
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(json(stolen).await["error"], "invalid_grant", "another client's token");
    assert!(refresh(&desk, &session.refresh).await.is_ok(), "and that did not spend it");
}

#[tokio::test]
async fn what_ends_the_user_ends_their_sessions() {
    let desk = Desk::open().await;
    for name in ["anna", "bert", "cleo"] {
        desk.add_user(name, Role::Member, &["default"]).await;
    }
    let sessions =
        [login(&desk, "anna", "").await, login(&desk, "bert", "").await, login(&desk, "cleo", "").await];
    desk.app.disable(&operator(), PrincipalKind::User, &"anna".parse().unwrap()).await.unwrap();
    desk.app.reset_password(&operator(), &"bert".parse().unwrap()).await.unwrap();
    desk.app.delete(&operator(), PrincipalKind::User, &"cleo".parse().unwrap()).await.unwrap();
    for session in &sessions {
        assert_eq!(reads(&desk, &session.access).await, 401);
        assert_eq!(refresh(&desk, &session.refresh).await.err(), Some(json!("invalid_grant")));
    }
    desk.app.enable(&operator(), PrincipalKind::User, &"anna".parse().unwrap()).await.unwrap();
    assert_eq!(reads(&desk, &sessions[0].access).await, 401, "and they stay ended");
}

#[tokio::test]
async fn a_one_time_password_opens_nothing_but_its_own_change_and_ends_after_a_day() {
    let desk = Desk::open().await;
    desk.add_user("anna", Role::Member, &["default"]).await;
    let reset = desk.app.reset_password(&operator(), &"anna".parse().unwrap()).await.unwrap();
    let form = [("grant_type", "password"), ("username", "anna"), ("password", open(&reset.password))];
    let body = json(desk.token_request(&form).await).await;
    assert_eq!((&body["scope"], &body["refresh_token"]), (&json!("password:change"), &Value::Null));
    assert_eq!(reads(&desk, body["access_token"].as_str().unwrap()).await, 403);
    desk.clock.advance(Duration::from_hours(24));
    assert_eq!(json(desk.token_request(&form).await).await["error"], "invalid_grant");
}

#[tokio::test]
async fn a_client_revokes_its_own_tokens_and_learns_nothing_of_others() {
    let desk = Desk::open().await;
    let (session, other) = (login(&desk, "admin", "").await, login(&desk, "admin", "").await);
    let junk = post(&desk, "/revoke", &[("token", "junk")]).await;
    assert_eq!(junk.status(), 200);
    assert_eq!(post(&desk, "/revoke", &[("token", ""), ("client_id", "keydesk")]).await.status(), 400);
    assert_eq!(
        post(&desk, "/revoke", &[("token", &session.access), ("client_id", "robot")]).await.status(),
        401
    );
    let robot = desk.add_account("robot", &[]).await;
    let as_robot =
        [("client_id", "robot"), ("client_secret", open(&robot.client_secret)), ("token", &session.refresh)];
    assert_eq!(post(&desk, "/revoke", &as_robot).await.status(), 200);
    assert_eq!(reads(&desk, &session.access).await, 200, "it was not the robot's to revoke");

    // The hint is only a hint.
    let hint = [("token", other.access.as_str()), ("token_type_hint", "refresh_token")];
    assert_eq!(post(&desk, "/revoke", &hint).await.status(), 200);
    assert_eq!(reads(&desk, &other.access).await, 401);
    let other = refresh(&desk, &other.refresh).await.unwrap();
    assert_eq!(reads(&desk, &other.access).await, 200, "an access token ends by itself");

    assert_eq!(post(&desk, "/revoke", &[("token", &session.refresh)]).await.status(), 200);
    assert_eq!(reads(&desk, &session.access).await, 401, "a refresh token ends its session");
    assert!(refresh(&desk, &session.refresh).await.is_err());
}

#[tokio::test]
async fn a_revocation_that_cannot_be_written_is_not_claimed() {
    let desk = Desk::open().await;
    let session = login(&desk, "admin", "").await;
    desk.forger().await.refuse("update", "token_families", "disk full").await;
    let response = post(&desk, "/revoke", &[("token", &session.refresh)]).await;
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (503, "1"));
}

#[tokio::test]
async fn introspection_says_all_of_a_valid_access_token_and_nothing_of_anything_else() {
    let desk = Desk::open().await;
    let robot = desk.add_account("robot", &[]).await;
    let session = login(&desk, "admin", "llm-keys:read admin").await;
    let ask = async |token: &str| {
        let request = desk.http.post(format!("{}/introspect", desk.url));
        let request = request.basic_auth("robot", Some(open(&robot.client_secret))).form(&[("token", token)]);
        json(request.send().await.unwrap()).await
    };
    let said = ask(&session.access).await;
    assert_eq!(said["active"], true);
    assert_eq!((&said["username"], &said["scope"]), (&json!("admin"), &json!("llm-keys:read admin")));
    assert_eq!(
        (&said["iss"], &said["aud"], &said["client_id"]),
        (&json!(desk.url), &json!("keydesk"), &json!("keydesk"))
    );
    let inactive = json!({"active": false});
    for other in [session.refresh.as_str(), open(&robot.token), "junk", "a.b.c"] {
        assert_eq!(ask(other).await, inactive);
    }
    let admin = desk.http.post(format!("{}/introspect", desk.url)).bearer_auth(&session.access);
    let admin = admin.form(&[("token", session.access.as_str())]).send().await.unwrap();
    assert_eq!(json(admin).await["active"], true, "an administrator may ask, too");
    let member = login(&desk, "admin", "").await;
    let member = desk.http.post(format!("{}/introspect", desk.url)).bearer_auth(&member.access);
    let member = member.form(&[("token", session.access.as_str())]).send().await.unwrap();
    assert_eq!(member.status(), 403);
    let junk = desk.http.post(format!("{}/introspect", desk.url)).bearer_auth("a.b.c");
    let junk = junk.form(&[("token", session.access.as_str())]).send().await.unwrap();
    assert!(junk.status() == 401 && header(&junk, "www-authenticate").starts_with("Bearer "));
    let stranger = post(&desk, "/introspect", &[("token", &session.access)]).await;
    assert_eq!(stranger.status(), 401);
    assert_eq!(post(&desk, "/revoke", &[("token", &session.refresh)]).await.status(), 200);
    assert_eq!(ask(&session.access).await, inactive);
    let expired = login(&desk, "admin", "").await;
    desk.clock.advance(Duration::from_secs(605));
    assert_eq!(ask(&expired.access).await, inactive);
}

#[tokio::test]
async fn a_signing_key_is_published_before_it_signs_and_verifies_until_its_last_token_is_over() {
    let desk = Desk::open().await;
    let published = async || {
        let keys = json(desk.get("/.well-known/jwks.json").send().await.unwrap()).await;
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    let old = published().await[0].clone();
    let new = desk.app.rotate_signing_key(&operator(), false).await.unwrap();
    assert_eq!(new.state, "pre_activation");
    assert_eq!(published().await, [json!(new.kid), old.clone()]);
    let signed_by = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.map(Value::from).unwrap();
    let before = desk.login("admin").await;
    assert_eq!(signed_by(&before), old);
    assert!(desk.app.rotate_signing_key(&operator(), false).await.is_err(), "one at a time");
    desk.clock.advance(Duration::from_mins(5));
    let after = desk.login("admin").await;
    assert_eq!(signed_by(&after), json!(new.kid));
    assert_eq!((reads(&desk, &before).await, reads(&desk, &after).await), (200, 200));
    desk.clock.advance(Duration::from_mins(5));
    assert_eq!(reads(&desk, &after).await, 200);
    assert_eq!(published().await.len(), 2, "a token of the old key may still live");
    desk.clock.advance(Duration::from_mins(56));
    assert_eq!(published().await, [json!(new.kid)], "the longest token it can have signed is over");
}

#[tokio::test]
async fn an_emergency_rotation_voids_everything_at_once() {
    let desk = Desk::open().await;
    let before = desk.login("admin").await;
    let new = desk.app.rotate_signing_key(&operator(), true).await.unwrap();
    assert_eq!(new.state, "active");
    assert_eq!(reads(&desk, &before).await, 401);
    let after = desk.login("admin").await;
    assert_eq!(reads(&desk, &after).await, 200);
    let states: Vec<_> =
        desk.app.signing_keys(&operator()).await.unwrap().iter().map(|key| key.state).collect();
    assert_eq!(states, ["active", "compromised"]);
    let actions: Vec<_> = desk.events().await.into_iter().map(|event| event.action).collect();
    assert!(
        actions.contains(&"signing_key.revoke".to_owned())
            && actions.contains(&"signing_key.create".to_owned())
    );
}

#[tokio::test]
async fn an_api_key_works_within_its_networks_and_scopes_and_shows_its_last_use() {
    use keydesk::{
        app::api_keys::NewKey,
        model::{Networks, Page},
    };
    let desk = Desk::open().await;
    let admin = "admin".parse().unwrap();
    let issue = async |sources: &[&str], scope: &str| {
        let sources = Networks::within(sources.iter().map(|text| text.parse().unwrap()).collect()).unwrap();
        let new = NewKey { sources, scope: Some(scope.parse().unwrap()), ..NewKey::default() };
        desk.app.issue_api_key(&operator(), &admin, new).await.unwrap()
    };
    let status = async |key: &keydesk::app::api_keys::IssuedApiKey| {
        desk.get("/llm-keys").header("x-api-key", open(&key.api_key)).send().await.unwrap().status().as_u16()
    };
    let near = issue(&["10.0.0.0/8", "127.0.0.1"], "llm-keys:read").await;
    let far = issue(&["10.0.0.0/8"], "llm-keys:read").await;
    let other = issue(&["127.0.0.0/8"], "audit:read").await;
    assert_eq!((status(&near).await, status(&far).await, status(&other).await), (200, 403, 403));
    desk.app.record_uses().await.unwrap();
    let keys = desk.app.api_keys(&operator(), Some(&admin), &Page::all()).await.unwrap().items;
    let used = |issued: &keydesk::app::api_keys::IssuedApiKey| {
        keys.iter().find(|key| key.id == issued.row.id).unwrap().last_used_at.is_some()
    };
    assert_eq!((used(&near), used(&far), used(&other)), (true, false, true));
    let alice = "alice".parse().unwrap();
    desk.add_user("alice", Role::Member, &[]).await;
    let too_much = NewKey { scope: Some("admin".parse().unwrap()), ..NewKey::default() };
    assert!(
        desk.app.issue_api_key(&operator(), &alice, too_much).await.is_err(),
        "more than the role allows"
    );
}

#[tokio::test]
async fn a_spent_token_is_an_attack_whatever_comes_with_it() {
    for extra in [("scope", "admin"), ("scope", "nonsense of a scope")] {
        let desk = Desk::open().await;
        let first = login(&desk, "admin", "").await;
        let second = refresh(&desk, &first.refresh).await.unwrap();
        desk.clock.advance(Duration::from_secs(11));
        let form = [("grant_type", "refresh_token"), ("refresh_token", first.refresh.as_str()), extra];
        desk.token_request(&form).await;
        let ended = refresh(&desk, &second.refresh).await.is_err();
        assert_eq!(ended, extra.1 == "admin", "a malformed request is not looked into");
    }
}

#[tokio::test]
async fn a_login_under_way_does_not_survive_what_ends_the_sessions() {
    let desk = std::sync::Arc::new(Desk::open().await);
    desk.add_user("anna", Role::Member, &["default"]).await;
    let anna = "anna".parse().unwrap();
    let logins: Vec<_> = (0..12)
        .map(|_| {
            let desk = std::sync::Arc::clone(&desk);
            tokio::spawn(async move {
                let form = [("grant_type", "password"), ("username", "anna"), ("password", PASSWORD)];
                json(desk.token_request(&form).await).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(120)).await;
    desk.app.disable(&operator(), PrincipalKind::User, &anna).await.unwrap();
    desk.app.enable(&operator(), PrincipalKind::User, &anna).await.unwrap();
    for login in logins {
        let body = login.await.unwrap();
        // Those that were decided before are ended, those that are decided after begin anew, and none is in between.
        if let Some(token) = body["refresh_token"].as_str() {
            let access = body["access_token"].as_str().unwrap();
            assert_eq!(reads(&desk, access).await == 200, refresh(&desk, token).await.is_ok());
        }
    }
    let events = desk.events().await;
    let at = |action: &str| events.iter().find(|event| event.action == action).unwrap().at;
    let disabled = at("principal.disable");
    let enabled = at("principal.enable");
    let issued = events.iter().filter(|event| event.action == "token.issue" && event.outcome == "allowed");
    assert!(issued.clone().all(|event| event.at < disabled || event.at > enabled));
}

#[tokio::test]
async fn a_one_time_password_is_not_made_a_lasting_one() {
    let desk = Desk::open().await;
    desk.add_user("anna", Role::Member, &[]).await;
    let reset = desk.app.reset_password(&operator(), &"anna".parse().unwrap()).await.unwrap();
    let once = open(&reset.password);
    let form = [("grant_type", "password"), ("username", "anna"), ("password", once)];
    let token = json(desk.token_request(&form).await).await["access_token"].as_str().unwrap().to_owned();
    let change = async |new: &str| {
        let body = json!({"old_password": once, "new_password": new}).to_string();
        let request = desk.http.put(format!("{}/me/password", desk.url)).bearer_auth(&token);
        let request = request.header("content-type", "application/json").body(body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(change(once).await, 409, "the same again");
    // In full width, which is the same to a keyboard and to the hash.
    assert_eq!(change("\u{ff50}assword\u{ff50}assword").await, 409, "a common one in disguise");
    assert_eq!(change("a wholly different set of words").await, 204);
}

#[tokio::test]
async fn introspection_tells_what_a_token_allows_today() {
    let desk = Desk::open().await;
    desk.add_user("olga", Role::Auditor, &[]).await;
    let robot = desk.add_account("robot", &[]).await;
    let session = login(&desk, "olga", "llm-keys:read audit:read").await;
    let patch = keydesk::app::principals::Patch { role: Some(Role::Member), ..Default::default() };
    let olga = "olga".parse().unwrap();
    desk.app.update_principal(&operator(), PrincipalKind::User, &olga, patch, None).await.unwrap();
    let form =
        [("client_id", "robot"), ("client_secret", open(&robot.client_secret)), ("token", &session.access)];
    assert_eq!(json(post(&desk, "/introspect", &form).await).await["scope"], "llm-keys:read");
    let next =
        desk.token_request(&[("grant_type", "refresh_token"), ("refresh_token", &session.refresh)]).await;
    assert_eq!(json(next).await["scope"], "llm-keys:read", "a refresh gives what is left");
}
