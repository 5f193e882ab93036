//! The chain is pinned by vectors that another implementation computed, see `tests/interop/audit_chain.py`.

use super::*;
use crate::{
    crypto::keyring::{Kek, Keyring},
    model::{Id, Timestamp},
    secret::Secret,
};
use serde_json::Value;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/audit-chain.json")).unwrap()
}

fn keys() -> std::sync::Arc<AuditKeys> {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/sealed-record.json")).unwrap();
    let field = |name: &str| vectors[name].as_str().unwrap();
    let kek = Kek::from_text(&Secret::new(field("kek_file"))).unwrap();
    let row = |n: u8, purpose: &str| {
        (Id::from_bytes([n; 16]), purpose.to_owned(), unhex(field(&format!("wrapped_{purpose}_key"))))
    };
    Keyring::unwrap(&kek.into(), &[row(1, "seal"), row(2, "mac")]).unwrap().audit()
}

fn event(row: &Value) -> RecordedEvent {
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let id = |name: &str| text(name).map(|hex| Id::from_bytes(unhex(&hex).try_into().unwrap()));
    RecordedEvent {
        at: Timestamp::from_micros(row["at"].as_i64().unwrap()),
        id: id("id").unwrap(),
        stream: id("stream").unwrap(),
        seq: row["seq"].as_i64().unwrap(),
        action: text("action").unwrap(),
        outcome: text("outcome").unwrap(),
        actor: text("actor").unwrap(),
        principal_id: id("principal_id"),
        principal_kind: text("principal_kind"),
        client_id: text("client_id"),
        credential: text("credential"),
        object: text("object"),
        version: text("version"),
        detail: text("detail"),
        source: text("source").unwrap(),
        request_id: text("request_id").unwrap(),
        reason: text("reason"),
        heads: text("heads"),
        mac: None,
    }
}

#[test]
fn the_chain_is_the_one_of_the_vectors() {
    let (vectors, keys) = (vectors(), keys());
    let mut head = Head { stream: Id::from_bytes([5; 16]), seq: 0, mac: None };
    for vector in vectors["events"].as_array().unwrap() {
        let event = event(&vector["event"]);
        assert_eq!(chain::canonical(&event), unhex(vector["canonical"].as_str().unwrap()));
        let mac = keys.event_mac(&event, head.mac.unwrap_or(Mac::NONE));
        assert_eq!(mac.to_string(), vector["mac"].as_str().unwrap());
        assert_eq!(mac.to_string().parse(), Ok(mac));
        head = Head { seq: event.seq, mac: Some(mac), ..head };
    }
    assert_eq!(keys.head_seal(&head).to_string(), vectors["seal_of_the_head"].as_str().unwrap());
}

#[test]
fn no_column_can_change_or_lend_a_byte_to_its_neighbour() {
    let keys = keys();
    let original = event(&vectors()["events"][1]["event"]);
    let mac = keys.event_mac(&original, Mac::NONE);
    let mut forgeries: Vec<RecordedEvent> = Vec::new();
    let mut forge = |change: &dyn Fn(&mut RecordedEvent)| {
        let mut event = original.clone();
        change(&mut event);
        forgeries.push(event);
    };
    forge(&|event| event.id = Id::from_bytes([0; 16]));
    forge(&|event| event.stream = Id::from_bytes([0; 16]));
    forge(&|event| event.seq += 1);
    forge(&|event| event.at = Timestamp::from_micros(0));
    forge(&|event| event.action.push('x'));
    forge(&|event| event.outcome = "allowed".to_owned());
    forge(&|event| event.actor = "mallory".to_owned());
    forge(&|event| event.principal_id = None);
    forge(&|event| event.principal_kind = None);
    forge(&|event| event.client_id = None);
    forge(&|event| event.credential = None);
    forge(&|event| event.object = None);
    forge(&|event| event.version = None);
    forge(&|event| event.detail = None);
    forge(&|event| event.source = "local".to_owned());
    forge(&|event| event.request_id = String::new());
    forge(&|event| event.reason = None);
    forge(&|event| event.heads = Some("[]".to_owned()));
    forge(&|event| {
        event.principal_kind = Some("use".to_owned());
        event.client_id = Some("rkeydesk".to_owned());
    });
    forge(&|event| {
        event.object = event.version.clone();
        event.version = original.object.clone();
    });
    for forged in forgeries {
        assert_ne!(keys.event_mac(&forged, Mac::NONE), mac, "{forged:?}");
    }
    assert_ne!(keys.event_mac(&original, mac), mac, "the predecessor counts");
}
