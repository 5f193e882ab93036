"""The key-encryption key is replaced while the desk works, and whoever does it is killed: before every single call that writes,
syncs, renames or sends, in turn. The desk opens with the files that are there, every key is handed over, tokens are still
good, the book is whole, and the next one who tries comes to the end.

10 kills of each kind; 100 in the full form.
"""

import base64
import collections
import concurrent.futures
import secrets
import shutil
import subprocess
import threading

import pytest

from conftest import Desk, eventually, rounds

DATA_KEYS = 2


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    """What kills a program before a call of its own."""
    compiler = shutil.which("cc") or pytest.skip("a C compiler is missing")
    source = __file__.replace("test_kek.py", "killer.c")
    library = tmp_path_factory.mktemp("killer") / "killer.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    return library


class Killed:
    """Programs of a desk, each killed before one of its calls."""

    def __init__(self, desk, killer):
        self.desk, self.killer = desk, killer
        self.log, self.armed = desk.home / "calls", desk.home / "armed"
        self.places = collections.Counter()

    def env(self, at, when_armed=False):
        self.log.write_text("")
        self.armed.unlink(missing_ok=True)
        only = {"KILL_WHILE": str(self.armed)} if when_armed else {}
        return {"LD_PRELOAD": str(self.killer), "KILL_AT": str(at), "KILL_LOG": str(self.log), **only}

    def calls(self):
        return self.log.read_text().splitlines()

    def rotate(self, at):
        """`keydesk kek rotate`, killed before that call; whether it was."""
        desk = self.desk
        done = subprocess.run([desk.binary, "kek", "rotate"], cwd=desk.home, env={**desk.plain_env, **self.env(at)},
                              capture_output=True, text=True, timeout=60)
        with (desk.logs / "cli.log").open("a") as log:
            log.write(done.stderr)
        if done.returncode == 0:
            return False
        assert done.returncode == -9, done.stderr
        self.places[self.calls()[-1]] += 1
        return True


def status(desk):
    return desk.cli_json("kek", "status")


def is_settled(desk, stage="none"):
    now = status(desk)
    return now["stage"] == stage and now["keks"][0]["role"] == "current" and now["keks"][0]["data_keys"] == DATA_KEYS


def check_served(desk, token):
    """Everything that is sealed opens, and what was signed before is good. Returns a new token."""
    for headers in ({"X-API-Key": desk.service_api_key}, {"Authorization": f"Bearer {token}"}):
        answer = desk.get("/llm-keys?project=default", headers=headers)
        assert (answer.status_code, answer.json()) == (200, desk.expected_keys())
    return desk.login()


def check_opens(desk, token):
    assert status(desk)["stage"] != "refused"
    desk.start()
    token = check_served(desk, token)
    assert desk.stop() == 0
    desk.cli("audit", "verify")
    return token


def places(count, calls):
    """Where to kill: so many of the calls, evenly, but first of all where files get and lose their names."""
    named = [number + after for number, call in enumerate(calls, 1) if call in ("linkat", "rename") for after in (0, 1)]
    named = sorted(set(named))[: count // 2]
    count -= len(named)
    return sorted({*named, *(1 + number * len(calls) // count for number in range(count))})


def test_whoever_rotates_is_killed_before_every_call(new_desk, killer):
    desk = new_desk().start()
    token = desk.login()
    assert desk.stop() == 0
    killed = Killed(desk, killer)
    assert not killed.rotate(0) and is_settled(desk)
    calls = killed.calls()
    assert calls.count("rename") == 2 and calls.count("linkat") >= 2
    old, kills, went_on = (desk.data / "kek").read_text(), 0, 0
    for at in places(rounds(10, 100), calls):
        kills += killed.rotate(at)
        token = check_opens(desk, token)
        again = desk.run("kek", "rotate")
        assert again.returncode == 0, again.stderr
        went_on += "under way already" in again.stderr
        assert is_settled(desk)
        new = (desk.data / "kek").read_text()
        # No other copy of the new key is left, under no other name.
        assert new != old
        names = [path.name for path in desk.data.glob("kek*")]
        assert all(name == "kek" or name.startswith("kek.retired-") for name in names), names
        assert all(path.read_text() != new for path in desk.data.glob("kek.retired-*"))
        old = new
    check_opens(desk, token)
    print(f"{kills} kills among {len(calls)} calls: {dict(killed.places)}; {went_on} rotations were gone on with")
    assert kills and went_on


def test_a_server_that_wraps_is_killed_before_every_call(new_desk, killer):
    desk = new_desk().start()
    token = desk.login()
    assert desk.stop() == 0
    killed, env, kills, half = Killed(desk, killer), dict(desk.env), 0, 0
    kek, previous = desk.data / "kek", desk.data / "kek.previous"

    def replace_and_serve(at):
        """A new key in the file, the old one beside it, and a server that is killed while it wraps."""
        kek.rename(previous)
        kek.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
        kek.chmod(0o600)
        desk.env = {**env, **killed.env(at, when_armed=True)}
        desk.start()
        killed.armed.touch()
        gone = lambda: desk.process.poll() is not None or "every data key is wrapped" in desk.tail()  # noqa: E731
        assert eventually(gone, within=30)
        desk.env = env
        return desk.process.poll() is not None

    assert not replace_and_serve(0)
    calls = killed.calls()
    assert desk.stop() == 0 and is_settled(desk, "over")
    previous.unlink()
    for at in places(rounds(10, 100), calls):
        if replace_and_serve(at):
            assert desk.process.wait() == -9
            kills += 1
            killed.places[killed.calls()[-1]] += 1
        desk.kill()
        now = status(desk)
        assert now["stage"] in ("under_way", "over")
        half += now["keks"][0]["data_keys"] == 1
        desk.start()
        token = check_served(desk, token)
        assert eventually(lambda: is_settled(desk, "over"), within=30)
        assert desk.stop() == 0
        previous.unlink()
        desk.cli("audit", "verify")
    check_opens(desk, token)
    print(f"{kills} kills among {len(calls)} calls: {dict(killed.places)}; {half} times one data key of two was wrapped")
    assert kills


def test_readers_notice_nothing_of_a_rotation(new_desk):
    desk = new_desk().start()
    token, over, answers = desk.login(), threading.Event(), collections.Counter()

    def read():
        while not over.is_set():
            answers[desk.get("/llm-keys?project=default", headers={"X-API-Key": desk.service_api_key}).status_code] += 1

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(rounds(3, 20)):
        desk.cli("kek", "rotate")
    # Of those who come at once, one does it, or one after the other.
    with concurrent.futures.ThreadPoolExecutor(4) as crowd:
        for done in crowd.map(lambda _: desk.run("kek", "rotate"), range(4)):
            assert done.returncode == 0 or "another `keydesk kek rotate` is at work" in done.stderr, done.stderr
    over.set()
    for reader in readers:
        reader.join()
    assert set(answers) == {200}, answers
    assert is_settled(desk)
    check_served(desk, token)
    assert desk.stop() == 0
    retired = len(list(desk.data.glob("kek.retired-*")))
    wrapped = desk.cli_json("audit", "list", "--action", "data_key.rewrap", "--limit", "1000")
    assert len(wrapped) == DATA_KEYS * retired
    check_opens(desk, token)


def test_several_servers_wrap_at_once_and_one_that_was_left_out_says_so(new_desk, tmp_path):
    first = new_desk().start()
    if "DATABASE_URL" not in first.env:
        pytest.skip("needs a database for several servers")
    token = first.login()
    old = (first.data / "kek").read_text()
    new = base64.b64encode(secrets.token_bytes(32)).decode() + "\n"

    def other(number):
        desk = Desk(tmp_path / f"desk{number}", DATABASE_URL=first.env["DATABASE_URL"])
        desk.plain_env["DATABASE_URL"] = desk.env["DATABASE_URL"]
        desk.keys, desk.service_api_key = first.keys, first.service_api_key
        desk.env.update({**first.keys, "SERVICE_API_KEY": first.service_api_key})
        desk.data.mkdir(mode=0o700)
        for name, text in (("kek", new), ("kek.previous", old)):
            (desk.data / name).write_text(text)
            (desk.data / name).chmod(0o600)
        return desk

    others = [other(number) for number in range(3)]
    try:
        with concurrent.futures.ThreadPoolExecutor(len(others)) as crowd:
            list(crowd.map(lambda desk: desk.start(wait=60), others))
        assert all(eventually(lambda: is_settled(desk, "over"), within=30) for desk in others)
        events = others[0].cli_json("audit", "list", "--action", "data_key.rewrap")
        assert len(events) == DATA_KEYS
        # The one that knows only the old key still serves, and says that it could not be started again.
        check_served(first, token)
        assert eventually(lambda: "cannot be started again" in first.log.read_text(), within=30)
        assert first.stop() == 0
        assert first.run("key", "list").returncode == 1
        (first.data / "kek").write_text(new)
        first.start()
        for desk in (first, *others):
            # A token is good where it was issued: each has another URL here.
            check_served(desk, token if desk is first else desk.login())
    finally:
        for desk in (first, *others):
            desk.kill()
    others[0].cli("audit", "verify")
