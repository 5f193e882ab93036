"""`kill -9` in the middle of concurrent key reads and rotations: what was delivered is in the book, what was acknowledged
is there, and the next start needs no help."""

import pathlib
import random
import secrets
import shutil
import sqlite3
import threading
import time

import requests

from conftest import PASSWORD

ROUNDS = 3
READERS = 200


def read_until_dead(desk, barrier, path, delivered, surprises):
    """One client: reads as fast as it is answered, and keeps what it got with the name the answer has in the book."""
    with requests.Session() as session:
        session.headers["X-API-Key"] = desk.service_api_key
        barrier.wait()
        while True:
            try:
                answer = session.get(f"{desk.url}{path}", timeout=20)
            except requests.RequestException:
                return  # cut off: nothing was delivered
            if answer.status_code != 200:
                surprises.append((answer.status_code, answer.text))
                return
            delivered.append((answer.headers["X-Request-Id"], path, answer.json()))


def rotate_until_dead(desk, barrier, dead, acknowledged, tried):
    """The administrator: one new key after another, by the command line."""
    barrier.wait()
    while not dead.is_set():
        key = f"sk-proj-CANARY{secrets.token_hex(20)}"
        tried.append(key)
        if desk.run("key", "set", "openai", stdin=key + "\n").returncode == 0:
            acknowledged.append(key)


def openai_version(desk):
    return next(row["version"] for row in desk.cli_json("key", "list") if row["provider"] == "openai")


def integrity(desk, scratch):
    """What SQLite says of the files as the killed server left them; asked of a copy, because asking repairs."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(desk.data, scratch)
    database = next(path for path in pathlib.Path(scratch).iterdir() if path.read_bytes()[:15] == b"SQLite format 3")
    with sqlite3.connect(database) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
        orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.close()
    return found, orphans


def one_round(desk, tmp_path, known):
    before = openai_version(desk)
    barrier = threading.Barrier(READERS + 2)
    dead = threading.Event()
    delivered, surprises, acknowledged, tried = [], [], [], []
    threads = [
        threading.Thread(target=read_until_dead, args=(desk, barrier, "/llm-keys/openai" if n % 2 else "/llm-keys", delivered, surprises))
        for n in range(READERS)
    ]
    threads.append(threading.Thread(target=rotate_until_dead, args=(desk, barrier, dead, acknowledged, tried)))
    for thread in threads:
        thread.start()
    barrier.wait()
    # Not before something happened, or nothing would be tested.
    deadline = time.monotonic() + 30
    while (len(delivered) < READERS or not acknowledged) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    desk.kill()
    dead.set()
    for thread in threads:
        thread.join(60)

    assert not surprises, surprises[:3]
    assert len(delivered) >= READERS and acknowledged, (len(delivered), len(acknowledged))
    assert integrity(desk, tmp_path / "copy") == ([("ok",)], [])

    desk.start()
    # Every delivered response has its event: the right one, about the version that was handed over.
    book = {event["request_id"]: event for event in desk.cli_json("audit", "list", "--limit", "1000000")}
    for request_id, path, body in delivered:
        event = book.get(request_id)
        assert event, f"{request_id} was delivered and is not in the book ({len(delivered)} delivered)"
        assert (event["action"], event["outcome"], event["actor"]) == ("llm_keys.read", "allowed", "default")
        if path == "/llm-keys/openai":
            assert event["version"] in (str(body["version"]), f"openai={body['version']}"), event
    # Every acknowledged rotation is there, and one that was not acknowledged is there whole or not at all.
    version = openai_version(desk)
    assert before + len(acknowledged) <= version <= before + len(tried)
    answer = desk.get("/llm-keys/openai", headers={"X-API-Key": desk.service_api_key}).json()
    assert answer["version"] == version
    assert answer["key"] == tried[version - before - 1]
    assert {body["key"] for _, path, body in delivered if path == "/llm-keys/openai"} <= known | set(tried)
    return set(tried), len(delivered), len(acknowledged)


def test_kill_9_loses_nothing(new_desk, tmp_path):
    desk = new_desk().start()
    known = {desk.keys["OPENAI_API_KEY"]}
    for number in range(ROUNDS):
        tried, delivered, rotations = one_round(desk, tmp_path, known)
        known |= tried
        print(f"round {number + 1}: {delivered} keys delivered, {rotations} rotations acknowledged, then kill -9")
    # The desk still does all that it did.
    assert desk.login("admin", PASSWORD)
    assert desk.stop() == 0
