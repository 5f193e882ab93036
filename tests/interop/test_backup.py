"""A backup every two seconds under load: each becomes a desk elsewhere, whose book is whole and which has everything that was
acknowledged before the backup began. Whoever restores or moves a desk is killed at every step, and there is a whole desk or none.

On SQLite, and on PostgreSQL as well where KEYDESK_TEST_POSTGRES names a server. 4 backups and 10 kills; 50 and 100 in the full form.
"""

import gzip
import json
import secrets
import shutil
import subprocess
import time

import pytest

import engine
from conftest import PASSWORD, Desk, rounds
from history import History, check_files, digest, openai
from load import Load
from test_kek import Killed, killer, places  # noqa: F401

SQLITE = {"DATABASE_URL": "sqlite://keydesk-data/keydesk.db"}


def on_postgres():
    return {"DATABASE_URL": engine.url(engine.new_database())}


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    """Makes places for a desk's tables: what to set for it."""
    if request.param == "sqlite":
        return lambda: SQLITE
    if not engine.ON_POSTGRES:
        pytest.skip("KEYDESK_TEST_POSTGRES names no server")
    return on_postgres


def at(desk, settings):
    """The commands, too, find the desk there."""
    desk.env.update(settings)
    desk.plain_env.update(settings)
    return desk


def with_kek_of(desk, home, settings):
    """A place with nothing but the key-encryption key of another desk."""
    other = at(Desk(home, **settings), settings)
    other.keys, other.service_api_key = desk.keys, desk.service_api_key
    other.data.mkdir(mode=0o700)
    shutil.copy(desk.data / "kek", other.data / "kek")
    for variable in [*desk.keys, "SERVICE_API_KEY"]:
        del other.env[variable]
    return other


def unpacked(path):
    """What is in a backup, by nothing but gzip and JSON: the rows of each table."""
    head, _, rest = path.read_bytes().partition(b"\n")
    assert json.loads(head)["keydesk_backup"] == 1
    packed, mac = rest[:-65], rest[-65:]
    assert len(bytes.fromhex(mac.decode())) == 32
    tables, table = {}, None
    for line in gzip.decompress(packed).splitlines():
        entry = json.loads(line)
        if isinstance(entry, list):
            tables[table].append(entry)
        elif "table" in entry:
            table = entry["table"]
            tables[table] = []
        else:
            assert entry["rows"] == len(tables[table])
    return tables


def check_restored(other, file, before, known, scratch):
    """A desk from a backup has what was acknowledged `before`; `known` is every key that was ever set or tried."""
    restored = other.cli_json("restore", str(file))["desk"]
    assert restored["book"]["whole"] and restored["lost"] is None, restored
    if other.env["DATABASE_URL"].startswith("sqlite"):
        check_files(other.data, scratch)
    other.cli("audit", "verify")
    book = {(event["request_id"], event["action"]): event for event in other.cli_json("audit", "list", "--limit", "1000000")}
    for entry in before.acknowledged:
        event = book.get((entry["id"], "provider_key.set"))
        assert event and event["version"] == str(entry["version"]), f"{entry} was acknowledged and is not in the backup"
    for entry in before.reads:
        assert (entry["id"], "llm_keys.read") in book, f"{entry['id']} was delivered and is not in the backup"
    version = openai(other)
    assert version >= max([1, *(entry["version"] for entry in before.acknowledged)])
    other.start()
    answer = other.get("/llm-keys/openai", headers={"X-API-Key": other.service_api_key}).json()
    assert answer["version"] == version and digest(answer["key"]) in known
    assert other.login("admin", PASSWORD)
    assert other.stop() == 0
    other.cli("audit", "verify")
    return len(book)


def test_every_backup_under_load_is_a_desk(new_desk, database, tmp_path):
    settings = database()
    desk = at(new_desk(**settings), settings).start()
    load = Load(desk, tmp_path, clients=50).start()
    load.wait_for(answers=100)
    backups = []
    for number in range(rounds(4, 50)):
        before = History(load.files)
        file = desk.home / f"{number}.backup"
        begun = time.monotonic()
        desk.cli("backup", str(file))
        backups.append((file, before))
        print(f"backup {number}: {file.stat().st_size >> 10} KB in {time.monotonic() - begun:.1f} s; {before}", flush=True)
        time.sleep(max(0, begun + 2 - time.monotonic()))
    history = load.stop()
    assert not history.surprises, history.surprises[:3]
    assert desk.stop() == 0
    desk.cli("audit", "verify")
    known = {digest(desk.keys["OPENAI_API_KEY"]), *(entry["key"] for entry in history.acknowledged), *history.unknown.values()}
    events = []
    for number, (file, before) in enumerate(backups):
        other = with_kek_of(desk, tmp_path / f"restored-{number}", database())
        events.append(check_restored(other, file, before, known, tmp_path / "copy"))
    # They are of different moments, or nothing was written meanwhile.
    assert events == sorted(set(events))
    # Where the search for secrets finds it.
    (desk.logs / "backup.json").write_text(json.dumps(unpacked(backups[-1][0])))


def test_whoever_restores_is_killed_before_every_call(new_desk, database, killer, tmp_path):  # noqa: F811
    settings = database()
    desk = at(new_desk(**settings), settings).start()
    file = desk.home / "desk.backup"
    desk.cli("backup", str(file))
    assert desk.stop() == 0
    users = desk.cli_json("user", "list")
    killed, kills, again = None, 0, 0

    def attempt(number, at_call):
        nonlocal killed
        other = with_kek_of(desk, tmp_path / f"killed-{number}", database())
        killed = Killed(other, killer)
        done = subprocess.run(
            [other.binary, "restore", str(file)], cwd=other.home, env={**other.plain_env, **killed.env(at_call)},
            capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, -9), done.stderr
        return other, done.returncode == -9

    other, was_killed = attempt("never", 0)
    assert not was_killed
    calls = killed.calls()
    for number, at_call in enumerate(places(rounds(10, 100), calls)):
        other, was_killed = attempt(number, at_call)
        kills += was_killed
        found = other.run("user", "list", "--json")
        if found.returncode:
            assert "there is no desk at" in found.stderr, found.stderr
            other.cli("restore", str(file))
            again += 1
        assert other.cli_json("user", "list") == users
        other.cli("audit", "verify")
    print(f"{kills} kills among {len(calls)} calls, {again} restores from the beginning")
    assert kills and again


@pytest.mark.skipif(not engine.ON_POSTGRES, reason="KEYDESK_TEST_POSTGRES names no server")
def test_a_desk_moves_to_postgresql_and_its_clients_do_not_notice(new_desk):
    desk = at(new_desk(**SQLITE), SQLITE).start()
    desk.cli("user", "add", "alice", "--project", "default", "--password-stdin", stdin=f"CANARY {secrets.token_hex(12)}")
    account = desk.cli_json("service-account", "add", "ci", "--project", "default")
    session = desk.token_response(data={"grant_type": "password", "username": "admin", "password": PASSWORD}).json()
    etag = desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).headers["ETag"]
    assert desk.stop() == 0
    desk.cli("backup", "before.backup")
    before = unpacked(desk.home / "before.backup")

    settings = on_postgres()
    moved = desk.cli_json("migrate-store", "--to", settings["DATABASE_URL"])["desk"]
    assert moved["book"]["whole"] and moved["lost"] is None
    at(desk, settings)
    desk.cli("backup", "after.backup")
    after = unpacked(desk.home / "after.backup")
    changes = {"revision", "audit_events", "audit_streams", "audit_checkpoints", "checkpoint_file"}
    assert {name: rows for name, rows in after.items() if name not in changes} == {
        name: rows for name, rows in before.items() if name not in changes}
    # Whoever remembers something of a revision must not meet it again with another meaning.
    assert after["revision"][0][1] > before["revision"][0][1] + 1000
    key = lambda event: event[:2]  # noqa: E731
    assert sorted(before["audit_events"], key=key) == [
        event for event in sorted(after["audit_events"], key=key) if event in before["audit_events"]]

    desk.start()
    for headers in ({"Authorization": f"Bearer {session['access_token']}"}, {"X-API-Key": desk.service_api_key},
                    {"X-API-Key": account["token"]}):
        answer = desk.get("/llm-keys", headers=headers)
        assert (answer.status_code, answer.json()) == (200, desk.expected_keys())
    unchanged = desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key, "If-None-Match": etag})
    assert unchanged.status_code == 304
    refreshed = desk.token_response(data={
        "grant_type": "refresh_token", "refresh_token": session["refresh_token"], "client_id": "keydesk"})
    assert refreshed.status_code == 200, refreshed.text
    machine = desk.token_response(data={"grant_type": "client_credentials"}, auth=("ci", account["client_secret"]))
    assert machine.status_code == 200, machine.text
    assert desk.stop() == 0
    desk.cli("audit", "verify")
