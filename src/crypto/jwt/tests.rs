//! Tokens that must not pass: each is one change away from one that does.

use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000 * 1_000_000);
const EXPECTED: Expectation<'static> =
    Expectation { issuer: "https://desk.example", audience: "keydesk", max_ttl: Duration::from_mins(10) };

fn key(algorithm: Algorithm) -> SigningKey {
    SigningKey::from_pkcs8(algorithm, &SigningKey::generate(algorithm).unwrap()).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://desk.example", "sub": "s", "aud": "keydesk", "client_id": "keydesk", "iat": 1_800_000_000,
           "exp": 1_800_000_600, "jti": "j", "scope": "llm-keys:read"})
}

/// Signs any header and any claims with `key`: what an attacker could only do with the key, and a careless colleague does.
fn sign(key: &SigningKey, header: &Value, claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.as_bytes()));
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key.encoding, key.algorithm.jose()).unwrap();
    format!("{message}.{signature}")
}

fn header(key: &SigningKey) -> Value {
    json!({"alg": key.algorithm.as_str(), "typ": "at+jwt", "kid": key.kid()})
}

fn check(key: &SigningKey, token: &str) -> Result<AccessClaims, JwtError> {
    verify(token, &[key], &EXPECTED, NOW)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test reads the token it made")]
fn what_we_sign_we_accept_with_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let key = key(algorithm);
        let claims = AccessClaims {
            iss: EXPECTED.issuer.to_owned(),
            sub: "s".to_owned(),
            aud: "keydesk".to_owned(),
            client_id: "keydesk".to_owned(),
            iat: 1_800_000_000,
            exp: 1_800_000_600,
            jti: "j".to_owned(),
            scope: "llm-keys:read".to_owned(),
            username: Some("alice".to_owned()),
        };
        let token = key.sign(&claims).unwrap();
        assert!(looks_like_jwt(token.expose()));
        assert_eq!(check(&key, token.expose()), Ok(claims));
        assert!(!serde_json::to_string(key.public_jwk()).unwrap().contains("\"d\""));
    }
}

#[test]
fn every_changed_header_is_refused() {
    let key = key(Algorithm::EdDsa);
    let claims = claims().to_string();
    assert!(check(&key, &sign(&key, &header(&key), &claims)).is_ok());
    let changes = [
        ("alg", json!("none")),
        ("alg", json!("eddsa")),
        ("alg", json!("HS256")),
        ("alg", json!("RS256")),
        ("alg", Value::Null),
        ("typ", json!("JWT")),
        ("typ", json!("AT+JWT")),
        ("typ", Value::Null),
        ("kid", json!("")),
        ("kid", json!("../../dev/null")),
        ("kid", json!("' UNION SELECT 'x")),
        ("kid", Value::Null),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("cty", json!("JWT")),
        ("jku", json!("http://127.0.0.1/")),
        ("x5u", json!("http://127.0.0.1/")),
        ("jwk", json!({"kty": "oct", "k": "AA"})),
    ];
    for (name, value) in changes {
        let mut header = header(&key);
        header[name] = value;
        let result = check(&key, &sign(&key, &header, &claims));
        assert!(matches!(result, Err(JwtError::Header | JwtError::UnknownKey)), "{header} gave {result:?}");
        header.as_object_mut().unwrap().remove(name);
    }
    for name in ["alg", "typ", "kid"] {
        let mut header = header(&key);
        header.as_object_mut().unwrap().remove(name);
        assert_eq!(check(&key, &sign(&key, &header, &claims)), Err(JwtError::Header), "without {name}");
    }
}

#[test]
fn every_claim_is_required_and_exact() {
    let key = key(Algorithm::EdDsa);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        check(&key, &sign(&key, &header(&key), &claims.to_string()))
    };
    for name in ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        let result = check(&key, &sign(&key, &header(&key), &claims.to_string()));
        assert_eq!(result, Err(JwtError::Invalid), "without {name}");
        assert!(
            with(name, Value::Null).is_err() && with(name, json!([1])).is_err(),
            "{name} of a wrong type"
        );
    }
    for issuer in
        ["https://desk.example/", "https://desk.example.evil", "HTTPS://desk.example", "https://evil"]
    {
        assert_eq!(with("iss", json!(issuer)), Err(JwtError::NotOurs), "{issuer}");
    }
    assert!(with("iss", json!(["https://desk.example"])).is_err());
    assert_eq!(with("aud", json!("other")), Err(JwtError::NotOurs));
    assert!(with("aud", json!(["other", "keydesk"])).is_ok());
    assert!(with("aud", json!(5)).is_err() && with("sub", json!("")).is_err());
}

#[test]
fn times_are_whole_seconds_within_what_we_give() {
    let key = key(Algorithm::EdDsa);
    let at = |iat: Value, exp: Value| {
        let mut claims = claims();
        claims["iat"] = iat;
        claims["exp"] = exp;
        check(&key, &sign(&key, &header(&key), &claims.to_string()))
    };
    let now = 1_800_000_000_i64;
    assert!(at(json!(now - 599), json!(now - 4)).is_ok(), "within the leeway");
    assert_eq!(at(json!(now - 600), json!(now - 5)), Err(JwtError::Expired));
    assert!(at(json!(now + 5), json!(now + 600)).is_ok());
    assert_eq!(at(json!(now + 6), json!(now + 600)), Err(JwtError::Times), "issued in the future");
    assert_eq!(at(json!(now), json!(now + 601)), Err(JwtError::Times), "a longer life than we give");
    assert_eq!(at(json!(now), json!(now - 1)), Err(JwtError::Times), "ends before it begins");
    for odd in [json!("1800000600"), json!(1.8e9), json!(1e30), json!(-1), json!(u64::MAX)] {
        assert!(at(json!(now), odd.clone()).is_err(), "exp {odd}");
    }
    let mut claims = claims();
    claims["nbf"] = json!(now + 6);
    assert_eq!(check(&key, &sign(&key, &header(&key), &claims.to_string())), Err(JwtError::Times));
}

#[test]
fn another_spelling_of_the_same_token_is_another_token() {
    let key = key(Algorithm::EdDsa);
    let token = sign(&key, &header(&key), &claims().to_string());
    let last = if token.ends_with('A') { "B" } else { "A" };
    let spellings = [
        format!("{token}="),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}.x"),
        token.replace('.', ".."),
        token[..token.rfind('.').unwrap()].to_owned(),
        token[..=token.rfind('.').unwrap()].to_owned(),
        format!("{}{last}", &token[..token.len() - 1]),
        String::new(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(20_000),
    ];
    for spelling in spellings {
        assert!(check(&key, &spelling).is_err(), "{spelling}");
    }
    let twice = claims().to_string().replacen('{', "{\"exp\":1,", 1);
    assert_eq!(
        check(&key, &sign(&key, &header(&key), &twice)),
        Err(JwtError::Invalid),
        "a claim given twice"
    );
}

#[test]
fn a_key_of_somebody_else_signs_nothing_for_us() {
    let (ours, other) = (key(Algorithm::EdDsa), key(Algorithm::EdDsa));
    let forged = sign(&other, &header(&ours), &claims().to_string());
    assert_eq!(check(&ours, &forged), Err(JwtError::Invalid));
    assert_eq!(
        check(&ours, &sign(&other, &header(&other), &claims().to_string())),
        Err(JwtError::UnknownKey)
    );
}

/// Project Wycheproof's JWS vectors are not part of the project: `WYCHEPROOF` names the directory that holds them.
#[test]
fn wycheproof_signatures_are_judged_right_and_none_is_a_token_of_ours() {
    let Some(directory) = std::env::var_os("WYCHEPROOF") else {
        eprintln!("skipped: WYCHEPROOF does not name the directory of the vectors");
        return;
    };
    let path = std::path::Path::new(&directory).join("json_web_signature_test.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ours = key(Algorithm::EdDsa);
    let (mut judged, mut refused) = (0, 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let jwk = &group["public"];
        let algorithm = jwk["alg"].as_str().and_then(|name| name.parse::<Algorithm>().ok());
        let public =
            serde_json::from_value::<Jwk>(jwk.clone()).ok().and_then(|jwk| DecodingKey::from_jwk(&jwk).ok());
        for test in group["tests"].as_array().unwrap() {
            // Some vectors are in the JSON serialisation, which is not a token at all.
            let token = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            assert!(check(&ours, &token).is_err(), "{}", test["tcId"]);
            refused += 1;
            let (Some(algorithm), Some(public)) = (algorithm, &public) else { continue };
            let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            let is_json = payload.is_some_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok());
            let accepted = signed_claims::<Value>(&token, public, algorithm).is_ok();
            // A right signature over something that is not JSON is no token either.
            assert_eq!(
                accepted,
                test["result"] == "valid" && is_json,
                "{}: {}",
                test["tcId"],
                test["comment"]
            );
            judged += 1;
        }
    }
    println!("{refused} vectors refused as tokens of ours, {judged} signatures of our algorithms judged");
    assert!(refused >= 400 && judged >= 250);
}
