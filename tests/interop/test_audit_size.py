"""A book of a million events is verified in less than a minute.

The book is written by `audit_chain.py`, which knows the format and has the key: to `keydesk audit verify` it is as genuine as
one of its own. A million events in the full form; the quick one has fewer.
"""

import contextlib
import hmac
import json
import sqlite3
import subprocess
import time
import uuid

import pytest

import audit_chain
from conftest import FULL

pytestmark = pytest.mark.sqlite("it writes the book as only the file can be written fast")

EVENTS = 1_000_000 if FULL else 30_000
STREAMS = 10
# A second. Of the quick form, which shares the machine with other tests, half of that.
PROMISED = 1_000_000 / 60 / (1 if FULL else 2)


def write(desk, count):
    database = desk.data / "keydesk.db"
    key = audit_chain.derive(audit_chain.mac_data_key(database, desk.data / "kek"), b"audit chain v1")
    heads_key = audit_chain.derive(audit_chain.mac_data_key(database, desk.data / "kek"), b"audit head v1")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        connection.execute("begin")
        for _ in range(STREAMS):
            stream, previous = uuid.uuid4().bytes, audit_chain.NONE
            for seq in range(1, count // STREAMS + 1):
                event = dict.fromkeys(audit_chain.COLUMNS)
                event.update(
                    id=uuid.uuid4().bytes, stream=stream, seq=seq, at=1_700_000_000_000_000 + seq, action="llm_keys.read",
                    outcome="allowed", actor="default", principal_id=b"\1" * 16, principal_kind="service_account",
                    client_id="default", credential="api_key", object="project:default",
                    version="anthropic=1 deepseek=1 gemini=1 openai=1", source="127.0.0.1", request_id=f"req_{uuid.uuid4()}",
                )
                previous = hmac.digest(key, audit_chain.canonical(event) + previous, "sha256")
                connection.execute(
                    f"insert into audit_events ({', '.join(audit_chain.COLUMNS)}, mac) values ({', '.join('?' * 19)})",
                    [*event.values(), previous],
                )
            seal = hmac.digest(heads_key, stream + seq.to_bytes(8, "big") + previous, "sha256")
            connection.execute("insert into audit_streams (stream, seq, mac, seal) values (?, ?, ?, ?)", (stream, seq, previous, seal))
        connection.execute("commit")


def verify(desk):
    """How long it takes, and what it says."""
    begun = time.monotonic()
    report = desk.cli_json("audit", "verify")
    return time.monotonic() - begun, report


def test_a_long_book_is_verified_in_time(new_desk):
    desk = new_desk().start()
    assert desk.stop() == 0
    start_up = verify(desk)[0]
    write(desk, EVENTS)
    rate = 0
    for _ in range(3):  # other programs run here too
        seconds, report = verify(desk)
        assert report["whole"] and report["events"] > EVENTS
        rate = max(rate, report["events"] / (seconds - start_up))
        print(f"{report['events']} events verified in {seconds:.1f} s; without the start, {rate:.0f} a second")
        if rate > PROMISED:
            break
    assert rate > PROMISED

    begun = time.monotonic()
    exported = desk.cli("audit", "export", "--action", "llm_keys.read")
    print(f"exported in {time.monotonic() - begun:.1f} s")
    assert exported.count("\n") == EVENTS


def test_an_export_that_nobody_reads_on_holds_nothing_up(new_desk):
    desk = new_desk().start()
    assert desk.stop() == 0
    write(desk, 5_000)
    desk.start()
    log = desk.data / "keydesk.db-wal"
    # As in `keydesk audit export | less`: the pipe is soon full.
    export = subprocess.Popen(
        [desk.binary, "audit", "export"], cwd=desk.home, env=desk.plain_env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        lines = [export.stdout.readline()]
        time.sleep(1)
        with contextlib.closing(sqlite3.connect(desk.data / "keydesk.db", isolation_level=None, timeout=10)) as connection:
            connection.execute("pragma synchronous = off")
            connection.execute("create table busy (bytes blob)")
            for _ in range(100):
                connection.execute("insert into busy values (randomblob(200000))")
                connection.execute("delete from busy")
            connection.execute("drop table busy")
        assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).status_code == 200
        assert log.stat().st_size < 12 << 20, "what was written piled up behind the export"
        lines += export.stdout.readlines()
        assert export.wait(60) == 0
    finally:
        export.kill()
        export.wait()
    events = [json.loads(line) for line in lines]
    assert sum(event["request_id"].startswith("req_") and event["actor"] == "default" for event in events) == 5_000
    assert events[-1]["action"] == "audit.export", "of what was written since it has nothing"
    desk.cli("audit", "verify")
    assert desk.stop() == 0
