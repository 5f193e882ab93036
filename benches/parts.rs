//! What the parts of a request cost, each beside the least that it could cost: `cargo bench`.
//!
//! A part is what the desk calls. Its baseline is the same work done by hand with the library underneath, in the same run, so
//! that the difference is ours and the rest is the mathematics or the disk. Nothing here judges: `scripts/bench` measures the
//! whole, and says what it should be.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start has nothing to say")]

use std::{
    collections::BTreeMap, fs, hint::black_box, io::Write as _, os::unix::fs::FileExt as _, sync::Arc,
    time::Duration,
};

use argon2::{Argon2, Params, PasswordHasher as _};
use aws_lc_rs::{
    aead, digest, hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use criterion::{BatchSize, Criterion, Throughput};
use hyper::body::Bytes;
use keydesk::{
    crypto::{
        SystemEntropy, generate_token,
        jwt::{self, AccessClaims, Algorithm, Expectation, SigningKey},
        keyring::{Kek, Keyring, Place, Purpose},
        password::PasswordPool,
        token_digest,
    },
    metrics::Metrics,
    model::{
        Action, AuditEvent, Clock as _, Head, Id, Mac, Origin, SystemClock, Timestamp, TokenKind,
        audit::RecordedEvent, chain,
    },
    secret::Secret,
    store::{Database, Store, audit_events},
};
use poem::{Response, http::header};
use tokio::runtime::Runtime;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    access_token(&mut criterion);
    token(&mut criterion);
    password(&mut criterion);
    sealing(&mut criterion);
    event(&mut criterion);
    commit(&mut criterion);
    reply(&mut criterion);
    criterion.final_summary();
}

/// An access token, against the bare signature over the same bytes.
#[expect(clippy::disallowed_methods, reason = "the token is read by its verifier")]
fn access_token(criterion: &mut Criterion) {
    let pkcs8 = SigningKey::generate(Algorithm::EdDsa).expect("a key pair");
    let key = SigningKey::from_pkcs8(Algorithm::EdDsa, &pkcs8).expect("a key pair");
    let bare = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).expect("a key pair");
    let now = SystemClock.now();
    let issued = u64::try_from(now.seconds()).expect("after 1970");
    let claims = AccessClaims {
        iss: "http://127.0.0.1:8000".to_owned(),
        sub: id().to_string(),
        aud: "keydesk".to_owned(),
        client_id: "keydesk".to_owned(),
        iat: issued,
        exp: issued + 600,
        jti: id().to_string(),
        scope: "llm-keys:read".to_owned(),
        username: Some("alice".to_owned()),
    };
    let token = key.sign(&claims).expect("a token");
    let (message, _) = token.expose().rsplit_once('.').expect("three parts");
    let signature = bare.sign(message.as_bytes());
    let public = UnparsedPublicKey::new(&ED25519, bare.public_key().as_ref());
    let expected =
        Expectation { issuer: &claims.iss, audience: &claims.aud, max_ttl: Duration::from_mins(10) };

    let mut group = criterion.benchmark_group("access token");
    group.bench_function("sign", |b| b.iter(|| key.sign(black_box(&claims))));
    group.bench_function("sign, baseline: Ed25519 alone", |b| {
        b.iter(|| bare.sign(black_box(message.as_bytes())));
    });
    group.bench_function("verify", |b| {
        b.iter(|| jwt::verify(black_box(token.expose()), &[&key], &expected, now).expect("it is ours"));
    });
    group.bench_function("verify, baseline: Ed25519 alone", |b| {
        b.iter(|| public.verify(black_box(message.as_bytes()), signature.as_ref()).expect("it is ours"));
    });
    group.finish();
}

/// The digest of an API key, against SHA-256 alone.
#[expect(clippy::disallowed_methods, reason = "the token becomes its digest")]
fn token(criterion: &mut Criterion) {
    let (token, _) = generate_token(TokenKind::ApiKey, &SystemEntropy);
    let mut group = criterion.benchmark_group("API key");
    group.bench_function("recognise and digest", |b| {
        b.iter(|| TokenKind::recognise(black_box(token.expose())).map(|_| token_digest(token.expose())));
    });
    group.bench_function("baseline: SHA-256 alone", |b| {
        b.iter(|| digest::digest(&digest::SHA256, black_box(token.expose().as_bytes())));
    });
    group.finish();
}

/// A password through the pool, against argon2id on this thread.
fn password(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let pool = PasswordPool::start(Arc::new(SystemEntropy), Metrics::new()).expect("threads");
    let text = "correct horse battery staple";
    let stored = runtime.block_on(pool.hash(Secret::new(text))).expect("a hash");
    let parameters = argon2::PasswordHash::new(&stored).ok().and_then(|hash| Params::try_from(&hash).ok());
    let parameters = parameters.expect("a hash names its parameters");
    let bare = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);

    let mut group = criterion.benchmark_group("password");
    group.sample_size(20);
    group.bench_function("verify", |b| {
        b.iter(|| {
            let place = pool.reserve().expect("nobody else waits");
            runtime.block_on(pool.verify(place, Secret::new(text), Some(stored.clone())))
        });
    });
    group.bench_function("baseline: argon2id alone", |b| {
        b.iter(|| bare.hash_password_with_salt(black_box(text.as_bytes()), &[7; 16]).expect("a hash"));
    });
    group.finish();
}

/// A provider key as it is stored, against AES-256-GCM alone.
fn sealing(criterion: &mut Criterion) {
    let keyring = keyring();
    let place = Place { table: "provider_key_versions", row: id(), column: "sealed" };
    let plain = [b'k'; 164];
    let sealed = keyring.seal(place, &plain, &SystemEntropy);
    let cipher = aead::UnboundKey::new(&aead::AES_256_GCM, &[7; 32]).expect("32 bytes");
    let cipher = aead::LessSafeKey::new(cipher);
    let nonce = || aead::Nonce::assume_unique_for_key([7; 12]);
    let mut box_of = plain.to_vec();
    cipher.seal_in_place_append_tag(nonce(), aead::Aad::empty(), &mut box_of).expect("it is short");

    let mut group = criterion.benchmark_group("provider key");
    group.bench_function("seal", |b| b.iter(|| keyring.seal(place, black_box(&plain), &SystemEntropy)));
    group.bench_function("open", |b| b.iter(|| keyring.open(place, black_box(&sealed)).expect("it is ours")));
    group.bench_function("open, baseline: AES-256-GCM alone", |b| {
        let open = |mut bytes: Vec<u8>| {
            cipher.open_in_place(nonce(), aead::Aad::empty(), &mut bytes).expect("it is ours");
            bytes
        };
        b.iter_batched(|| box_of.clone(), open, BatchSize::SmallInput);
    });
    group.finish();
}

/// The MAC of an event of the book, against HMAC-SHA-256 over the same bytes.
fn event(criterion: &mut Criterion) {
    let keys = keyring().audit();
    let event = key_read(id(), 1);
    let bytes = chain::canonical(&event);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let mut group = criterion.benchmark_group("event");
    group.bench_function("MAC", |b| b.iter(|| keys.event_mac(black_box(&event), Mac::NONE)));
    group.bench_function("MAC, baseline: HMAC-SHA-256 alone", |b| {
        b.iter(|| hmac::sign(&key, black_box(&bytes)));
    });
    group.finish();
}

/// What SQLite writes for one event: eight pages and their headers.
const COMMIT: usize = 8 * (4096 + 24);

/// Events made durable together, against one fdatasync of what a single one writes.
fn commit(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = Runtime::new().expect("a runtime");
    let store = runtime
        .block_on(Store::open(&Database::File(folder.path().join("bench.db")), true))
        .expect("a database");
    let keys = keyring().audit();
    let stream = id();
    let mut end = Head { stream, seq: 0, mac: None };

    let mut group = criterion.benchmark_group("book");
    group.sample_size(20);
    for size in [1, 16, 64, 256] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(format!("commit of {size}"), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let mut tx = store.begin().await.expect("the database works");
                    let mut events = Vec::new();
                    for _ in 0..size {
                        let mut event = key_read(stream, end.seq + 1);
                        event.mac = Some(keys.event_mac(&event, end.mac.unwrap_or(Mac::NONE)));
                        end = Head { stream, seq: event.seq, mac: event.mac };
                        events.push(event);
                    }
                    let seal = keys.head_seal(&end);
                    audit_events::insert(&mut tx, events, end, seal).await.expect("the database works");
                    tx.commit().await.expect("the database works");
                });
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let mut file = fs::File::create_new(folder.path().join("baseline")).expect("a file");
    let bytes = vec![7; COMMIT];
    file.write_all(&bytes.repeat(64)).and_then(|()| file.sync_all()).expect("the disk works");
    let mut turn = 0;
    group.bench_function("baseline: fdatasync of one commit's bytes, in place", |b| {
        b.iter(|| {
            turn = (turn + 1) % 64;
            file.write_all_at(&bytes, turn * COMMIT as u64).expect("the disk works");
            file.sync_data().expect("the disk works");
        });
    });
    group.finish();
}

/// The answer to a key read from a body that is ready, against one that is written each time.
fn reply(criterion: &mut Criterion) {
    let keys: BTreeMap<_, _> =
        ["anthropic", "deepseek", "gemini", "openai"].map(|name| (name, "k".repeat(100))).into();
    let text = || serde_json::to_vec(&keys).expect("texts");
    let answer =
        |body: Bytes| Response::builder().header(header::CONTENT_TYPE, "application/json").body(body);
    let ready = Bytes::from(text());
    let mut group = criterion.benchmark_group("reply");
    group.bench_function("from a body that is ready", |b| b.iter(|| answer(black_box(&ready).clone())));
    group.bench_function("baseline: written each time", |b| b.iter(|| answer(text().into())));
    group.finish();
}

fn id() -> Id {
    Id::generate(SystemClock.now(), &SystemEntropy)
}

fn keyring() -> Keyring {
    let kek = Kek::from_text(&Kek::generate(&SystemEntropy)).expect("a key");
    let keys = [Purpose::Seal, Purpose::Mac].map(|purpose| {
        let id = id();
        (id, purpose.as_str().to_owned(), kek.new_data_key(id, purpose, &SystemEntropy))
    });
    Keyring::unwrap(&kek.into(), &keys).expect("both keys are there")
}

/// What the book says of a key read.
fn key_read(stream: Id, seq: i64) -> RecordedEvent {
    let origin = Origin { source: "192.0.2.7".to_owned(), request_id: format!("req_{stream}") };
    let event = AuditEvent::anonymous(&origin, Action::LlmKeysRead)
        .on("project:default")
        .version("anthropic=1 deepseek=1 gemini=1 openai=1");
    RecordedEvent::new(event, id(), stream, seq, Timestamp::from_micros(seq))
}
