//! The format is pinned by vectors that any other implementation can check, and records do not open out of place.

use super::*;

/// Counts up, so that every byte of a record is predictable.
struct Counter(std::sync::atomic::AtomicU8);

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        for byte in out {
            *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn counter() -> Counter {
    Counter(0.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 16])
}

fn keyring(kek: Kek) -> Keyring {
    let source = counter();
    let row =
        |n, purpose: Purpose| (id(n), purpose.as_str().to_owned(), kek.new_data_key(id(n), purpose, &source));
    let rows = [row(1, Purpose::Seal), row(2, Purpose::Mac)];
    Keyring::unwrap(&kek.into(), &rows).unwrap()
}

fn kek(byte: u8) -> Kek {
    Kek::from_text(&Secret::new(STANDARD.encode([byte; 32]))).unwrap()
}

const PLACE: Place<'static> =
    Place { table: "provider_key_versions", row: Id::from_bytes([3; 16]), column: "sealed" };

#[test]
fn the_format_is_the_one_of_the_vectors() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/sealed-record.json")).unwrap();
    let field = |name: &str| vectors[name].as_str().unwrap();
    let kek = Kek::from_text(&Secret::new(field("kek_file"))).unwrap();
    assert_eq!(hex(&kek.id()), field("kek_id"));
    let keyring = Keyring::unwrap(
        &kek.into(),
        &[
            (id(1), "seal".to_owned(), unhex(field("wrapped_seal_key"))),
            (id(2), "mac".to_owned(), unhex(field("wrapped_mac_key"))),
        ],
    )
    .unwrap();
    assert_eq!(*keyring.open(PLACE, &unhex(field("sealed"))).unwrap(), field("plaintext").as_bytes());
    assert_eq!(hex(&keyring.seal(PLACE, field("plaintext").as_bytes(), &counter())), field("sealed"));
    assert_eq!(hex(&keyring.mac("vector", b"data")), field("mac_of_data_for_vector"));
}

#[test]
fn a_record_opens_only_where_it_was_sealed() {
    let ring = keyring(kek(9));
    let record = ring.seal(PLACE, b"sk-secret", &counter());
    assert_eq!(*ring.open(PLACE, &record).unwrap(), b"sk-secret");
    for moved in [
        Place { row: id(4), ..PLACE },
        Place { table: "signing_keys", ..PLACE },
        Place { column: "x", ..PLACE },
    ] {
        assert_eq!(ring.open(moved, &record), Err(SealError::NotAuthentic));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let ring = keyring(kek(9));
    let record = ring.seal(PLACE, b"sk-secret", &counter());
    for i in 0..record.len() {
        let mut changed = record.clone();
        changed[i] ^= 1;
        assert!(ring.open(PLACE, &changed).is_err(), "byte {i}");
    }
    for length in 0..record.len() {
        assert!(ring.open(PLACE, &record[..length]).is_err(), "length {length}");
    }
}

#[test]
fn another_kek_unwraps_nothing() {
    let wrapped = kek(9).new_data_key(id(1), Purpose::Seal, &counter());
    assert_eq!(
        Keyring::unwrap(&kek(8).into(), &[(id(1), "seal".to_owned(), wrapped)]).unwrap_err(),
        SealError::UnknownKey
    );
}

#[test]
fn a_data_key_stays_the_same_under_another_kek() {
    let row = |n, purpose: Purpose| {
        (id(n), purpose.as_str().to_owned(), kek(9).new_data_key(id(n), purpose, &counter()))
    };
    let mut rows = [row(1, Purpose::Seal), row(2, Purpose::Mac)];
    let before = Keyring::unwrap(&kek(9).into(), &rows).unwrap();
    let record = before.seal(PLACE, b"sk-secret", &counter());
    let both = Keks { current: kek(8), previous: Some(kek(9)) };
    for n in 0..rows.len() {
        let (id, purpose, wrapped) = &mut rows[n];
        *wrapped = both.rewrap(*id, purpose, wrapped, &counter()).unwrap();
        assert_eq!(Keks::from(kek(9)).check(*id, purpose, wrapped), Err(SealError::UnknownKey));
        let ring = Keyring::unwrap(&both, &rows).unwrap();
        assert_eq!(*ring.open(PLACE, &record).unwrap(), b"sk-secret");
        assert_eq!(ring.mac("x", b"data"), before.mac("x", b"data"));
    }
    Keyring::unwrap(&kek(8).into(), &rows).unwrap();
    let misplaced = both.rewrap(id(2), "seal", &rows[0].2, &counter());
    assert_eq!(misplaced.unwrap_err(), SealError::NotAuthentic);
}

#[test]
fn a_kek_file_holds_exactly_32_bytes() {
    for bad in ["", "not base64!", "c2hvcnQ=", &STANDARD.encode([0; 33])] {
        assert_eq!(Kek::from_text(&Secret::new(bad)).unwrap_err(), SealError::MalformedKek, "{bad}");
    }
}
