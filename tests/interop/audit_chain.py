"""The chain of the book, computed by another program from the documented format alone: nothing of keydesk's is used."""

import base64
import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import engine

COLUMNS = [
    "id", "stream", "seq", "at", "action", "outcome", "actor", "principal_id", "principal_kind", "client_id",
    "credential", "object", "version", "detail", "source", "request_id", "reason", "heads",
]
NONE = bytes(32)


def derive(key, label):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=b"keydesk", info=label).derive(key)


def unwrap(kek, key_id, purpose, wrapped):
    """A data key out of the database: `0x01 | KEK id | nonce | AES-256-GCM`."""
    aad = wrapped[:17]
    for part in (b"data_keys", key_id, b"wrapped", purpose):
        aad += struct.pack(">I", len(part)) + part
    return AESGCM(derive(kek, b"kek wrap v1")).decrypt(wrapped[17:29], wrapped[29:], aad)


def mac_data_key(database, kek_file):
    kek = base64.b64decode(kek_file.read_text().strip())
    with engine.connect(database) as connection:
        key_id, wrapped = connection.execute("select id, wrapped from data_keys where purpose = 'mac'").fetchone()
    return unwrap(kek, key_id, b"mac", wrapped)


def canonical(event):
    """Every column but the MAC, each with its length; absent ones as a single zero."""
    out = b"\x01"
    for column in COLUMNS:
        value = event[column]
        if value is None:
            out += b"\x00"
            continue
        if isinstance(value, int):
            value = struct.pack(">q", value)
        elif isinstance(value, str):
            value = value.encode()
        out += b"\x01" + struct.pack(">I", len(value)) + value
    return out


def event_mac(data_key, event, previous):
    return hmac.digest(derive(data_key, b"audit chain v1"), canonical(event) + previous, "sha256")


def head_seal(data_key, stream, seq, mac):
    return hmac.digest(derive(data_key, b"audit head v1"), stream + struct.pack(">q", seq) + mac, "sha256")


def sha256(data):
    return hashlib.sha256(data).digest()


def events(database):
    """All events in the order of the chain."""
    with engine.connect(database) as connection:
        rows = connection.execute("select * from audit_events order by stream, seq").fetchall()
    return [dict(row) for row in rows]


def checked(database, kek_file):
    """Recomputes every MAC; returns the head of each stream."""
    key, heads = mac_data_key(database, kek_file), {}
    for event in events(database):
        seq, previous = heads.get(event["stream"], (0, NONE))
        assert event["seq"] == seq + 1, "without gaps"
        assert event["mac"] == event_mac(key, event, previous), event["id"].hex()
        heads[event["stream"]] = (event["seq"], event["mac"])
    with engine.connect(database) as connection:
        rows = connection.execute("select stream, seq, mac, seal from audit_streams").fetchall()
    assert {stream: (seq, mac) for stream, seq, mac, _ in rows} == heads
    for stream, seq, mac, seal in rows:
        assert seal == head_seal(key, stream, seq, mac)
    return heads


def carried(event):
    return {bytes.fromhex(head["stream"].replace("-", "")): head["seq"] for head in json.loads(event["heads"] or "[]")}
