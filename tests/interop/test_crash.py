"""`kill -9` under load, again and again on the same desk: what was delivered is in the book, what was acknowledged is there,
and the next start needs no help.

200 clients and 5 rounds; 1000 clients of the release build (KEYDESK_RELEASE_BIN) and 50 rounds in the full form.
"""

import os
import random
import time

import engine
from conftest import BINARY, FULL, PASSWORD, rounds
from history import check, check_files, check_spent, digest, now, openai
from load import Load


def test_kill_9_loses_nothing(new_desk, tmp_path):
    desk = new_desk(**({"RUST_LOG": "info"} if FULL else {}))
    desk.binary = FULL and os.environ.get("KEYDESK_RELEASE_BIN") or BINARY
    desk.start()
    known = (openai(desk), digest(desk.keys["OPENAI_API_KEY"]))
    load = Load(desk, tmp_path, clients=1000 if FULL else 200)
    count, rotations, exchanged = rounds(5, 50), 0, None
    for number in range(1, count + 1):
        since = now()
        load.start().wait_for(answers=200)
        time.sleep(random.uniform(0, 2))
        desk.kill()
        history = load.end()
        if not engine.ON_POSTGRES:  # whose files are a server's that was not hurt
            check_files(desk.data, tmp_path / "copy")

        begun = time.monotonic()
        desk.start()
        took = time.monotonic() - begun
        known = check(desk, history, known, since)
        print(f"kill -9, round {number} of {count}: {history}; up again after {took:.1f} s", flush=True)
        # One that is killed at once has not acknowledged everything of which there is little.
        assert history.reads
        rotations += len(history.acknowledged)
        # Of one session at least so many tokens were spent that the first is beyond a lost answer.
        exchanged = history if any(len(tokens) > 2 for tokens in history.spent.values()) else exchanged
        assert took < 5
    assert rotations and exchanged
    # The desk still does all that it did.
    assert desk.login("admin", PASSWORD)
    assert check_spent(desk, exchanged) > 0
    assert desk.stop() == 0
