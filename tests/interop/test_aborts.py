"""Clients that leave in the middle of everything: nothing of theirs stays behind to be missing for others.

500 clients that leave, then 100 ordinary requests; 5000 and 1000 in the full form.
"""

import concurrent.futures
import time

import requests

import engine
from conftest import FULL, PASSWORD, eventually
from history import check, digest, now, openai
from load import Load

ABORTS, REQUESTS = (5000, 1000) if FULL else (500, 100)


def test_clients_that_leave_leave_nothing_behind(new_desk, tmp_path):
    desk = new_desk().start()
    known, since = (openai(desk), digest(desk.keys["OPENAI_API_KEY"])), now()
    load = Load(desk, tmp_path, clients=50, mix={"abort": 1}, requests=ABORTS // 2)
    history = load.start().end(patience=300)
    assert load.answered() >= ABORTS, load.answered()

    # Nobody holds the lock, and so no connection inside a transaction.
    with desk.connect() as other:
        begun = time.monotonic()
        other.execute(engine.BEGIN)
        assert time.monotonic() - begun < 1
        other.execute("rollback")
        if engine.ON_POSTGRES:
            inside = "select query from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
            # Sooner than the server would end by itself what nobody ends.
            assert eventually(lambda: not other.execute(inside).fetchall())
    with requests.Session() as session:
        for number in range(REQUESTS):
            answer = session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=30)
            assert answer.status_code == 200, (number, answer.status_code, answer.text)
    # Every place at the hashing of passwords is free: as many at once as there are.
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        logins = list(pool.map(lambda _: desk.token_response(
            data={"grant_type": "password", "username": "admin", "password": PASSWORD}).status_code, range(6)))
    assert logins == [200] * 6
    assert [check["ok"] for check in [{"ok": status == "ok"} for status in desk.get("/health/ready").json()["checks"].values()]]
    # What was written for those who left was written wholly.
    check(desk, history, known, since)
    assert desk.stop() == 0
