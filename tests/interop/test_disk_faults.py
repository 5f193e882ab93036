"""A disk that is full, fails, has become read-only, or a database that somebody else has locked: nobody gets a key that is not
in the book, everybody is told to come back, and when it is over the desk needs no help."""

import concurrent.futures
import contextlib
import shutil
import sqlite3
import subprocess
import tempfile
import time

import pytest
import requests

from conftest import PASSWORD, Desk, rounds
from disks import Image, require, run, small

pytestmark = pytest.mark.sqlite("the disk is the server's")

PATIENCE = 5  # seconds after which everybody has been told to come back
MARGIN = 1  # for this machine


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "desk")
    yield made
    made.kill()


class Asker:
    """What people ask of a desk, prepared while it was well."""

    def __init__(self, desk):
        self.desk, self.url = desk, desk.url
        self.api_key = {"X-API-Key": desk.service_api_key}
        self.admin = {"Authorization": f"Bearer {desk.login(scope='admin llm-keys:write')}"}
        desk.cli("service-account", "add", "ci", "--project", "default", "--file", "sa.json")
        account = desk.cli_json("service-account", "rotate-secret", "ci")
        self.client = (account["client_id"], account["client_secret"])
        self.session = self.tokens()
        self.spare = self.tokens()["refresh_token"]
        self.rotations = 0

    def tokens(self):
        answer = self.desk.token_response(data={"grant_type": "password", "username": "admin", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, method, path, **options):
        begun = time.monotonic()
        answer = requests.request(method, f"{self.url}{path}", timeout=60, **options)
        answer.took = time.monotonic() - begun
        return answer

    def read(self):
        return self.send("GET", "/llm-keys", headers=self.api_key)

    def rotate(self):
        self.rotations += 1
        return self.send("PUT", "/admin/projects/default/keys/openai", headers=self.admin,
                         json={"key": f"sk-proj-CANARY{self.rotations:040}"})

    def token(self):
        return self.send("POST", "/token", auth=self.client, data={"grant_type": "client_credentials"})

    def log_in(self):
        return self.send("POST", "/token", data={"grant_type": "password", "username": "admin", "password": PASSWORD})

    def refresh(self):
        form = {"grant_type": "refresh_token", "refresh_token": self.session["refresh_token"], "client_id": "keydesk"}
        answer = self.send("POST", "/token", data=form)
        if answer.status_code == 200:
            self.session = answer.json()
        return answer

    def revoke(self):
        return self.send("POST", "/revoke", data={"token": self.spare, "client_id": "keydesk"})

    def introspect(self):
        return self.send("POST", "/introspect", auth=self.client, data={"token": self.session["access_token"]})

    def health(self):
        return self.send("GET", "/health")

    def ready(self):
        return self.send("GET", "/health/ready")

    def key_set(self):
        return self.send("GET", "/.well-known/jwks.json")

    def metadata(self):
        return self.send("GET", "/.well-known/oauth-authorization-server")

    # All of them write a line in the book at least.
    NEED_THE_DISK = (read, rotate, token, log_in, refresh, revoke, introspect)
    NEED_NOTHING = (health, key_set, metadata)

    def refused(self):
        """Everybody is told to come back, in time and in the right form; what needs no disk goes on."""
        asks = [*self.NEED_THE_DISK, *self.NEED_NOTHING]
        with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:
            answers = dict(zip(asks, pool.map(lambda ask: ask(self), asks), strict=True))
        answers[Asker.ready] = self.ready()
        for ask, answer in answers.items():
            name = ask.__name__
            assert answer.took < PATIENCE + MARGIN, f"{name} took {answer.took:.1f} s"
            assert answer.status_code == (200 if ask in self.NEED_NOTHING else 503), (name, answer.status_code, answer.text)
            assert "CANARY" not in answer.text and "kd_" not in answer.text, name
            if ask in self.NEED_NOTHING:
                assert answer.took < 1, f"{name} took {answer.took:.1f} s although it needs no disk"
            else:
                assert int(answer.headers["retry-after"]) >= 1, name
            if ask in (Asker.read, Asker.rotate):
                assert answer.headers["content-type"] == "application/problem+json", name
        for ask in (Asker.token, Asker.log_in, Asker.refresh, Asker.revoke, Asker.introspect):
            assert answers[ask].json()["error"] == "temporarily_unavailable", answers[ask].text

    def recovers(self, within):
        """By itself: a load balancer asks nothing but whether the desk is ready."""
        begun = time.monotonic()
        while self.ready().status_code != 200:
            assert time.monotonic() - begun < within, f"not ready {within} s after it was over"
            time.sleep(0.05)
        took = time.monotonic() - begun
        for ask in (*self.NEED_THE_DISK, *self.NEED_NOTHING):
            answer = ask(self)
            assert answer.status_code in (200, 201), (ask.__name__, answer.status_code, answer.text)
        print(f"recovered after {took:.2f} s", flush=True)

    def keep_asking(self, until, within):
        """Reads and rotates until the disk says no."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if until(self.read()) or until(self.rotate()):
                return
        pytest.fail("the fault did not come")


def is_503(answer):
    return answer.status_code == 503


def fill(folder):
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler


def test_a_full_disk_gives_no_key_and_a_freed_one_does_again(desk):
    with small(desk.data, "8m"):
        asker = Asker(desk.start())
        assert asker.read().status_code == 200
        filler = fill(desk.data)
        # What is already allocated is used up first.
        asker.keep_asking(is_503, within=60)
        asker.refused()
        filler.unlink()
        asker.recovers(within=10)
        # Again, with answers as the only witnesses of what was written.
        filler = fill(desk.data)
        asker.keep_asking(is_503, within=60)
        filler.unlink()
        asker.recovers(within=10)
        assert desk.stop() == 0
        desk.keep()


@contextlib.contextmanager
def on_a_disk(desk):
    with tempfile.TemporaryDirectory() as folder:
        image = Image(folder, desk.data)
        try:
            yield image.make()
        finally:
            desk.kill()
            desk.keep()
            image.close()


def test_a_file_that_must_not_be_changed(desk):
    """`chattr +i`, which holds for files that are open as well."""
    with on_a_disk(desk):
        asker = Asker(desk.start())
        files = [desk.data / name for name in ("keydesk.db", "keydesk.db-wal")]
        require("chattr", "+i", *files)
        try:
            asker.refused()
        finally:
            assert run("chattr", "-i", *files).returncode == 0
        asker.recovers(within=1)
        assert desk.stop() == 0


def test_a_file_system_that_has_become_read_only(desk):
    """What Linux does when a disk fails under it."""
    with on_a_disk(desk):
        asker = Asker(desk.start())
        require("mount", "-o", "remount,abort", desk.data)
        asker.keep_asking(is_503, within=20)
        asker.refused()


@contextlib.contextmanager
def failing(desk, calls, tmp_path, when="1+", error="EIO"):
    """A disk on which these calls fail: from the first on, or as often as `when` says."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", tmp_path / "strace", "-P", desk.data / "keydesk.db", "-P", desk.data / "keydesk.db-wal",
         "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}", "-p", str(desk.process.pid)],
        stderr=subprocess.PIPE)
    try:
        if b"attached" not in tracer.stderr.readline():
            pytest.skip("tracing is not permitted here")
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def test_a_disk_that_cannot_sync(desk, tmp_path):
    """Not one answer while no sync succeeds: and then, by itself, all of them again."""
    asker = Asker(desk.start())
    with failing(desk, "fdatasync,fsync", tmp_path):
        asker.refused()
        asker.refused()
    asker.recovers(within=10)
    assert "Input/output error" in desk.log.read_text() or "disk I/O error" in desk.log.read_text(), "never silent"
    assert desk.stop() == 0


def test_a_disk_that_sometimes_cannot_sync(desk, tmp_path):
    """What was answered with 200 is there, what was answered with 503 is not, and no key was handed over with it."""
    asker = Asker(desk.start())
    statuses, versions = [], {}
    with failing(desk, "fdatasync,fsync", tmp_path, when="5+7"):
        for _ in range(60):
            answer = asker.read()
            assert answer.status_code in (200, 503) and (answer.status_code == 200 or "CANARY" not in answer.text)
            statuses.append((answer.headers["x-request-id"], answer.status_code))
            answer = asker.rotate()
            if answer.status_code == 200:
                versions[answer.json()["version"]] = asker.rotations
            else:
                assert answer.status_code == 503
    assert {status for _, status in statuses} == {200, 503} and len(versions) < 60
    desk.kill()
    desk.start()
    book = {event["request_id"] for event in desk.cli_json("audit", "list", "--limit", "100000", "--action", "llm_keys.read")}
    assert [request for request, status in statuses if status == 200 and request not in book] == []
    newest = max(versions)
    answer = desk.get("/llm-keys/openai", headers=asker.api_key).json()
    assert answer["version"] >= newest
    if answer["version"] == newest:
        assert answer["key"].endswith(f"{versions[newest]:040}")


def test_a_database_that_somebody_has_locked(desk):
    """`begin exclusive` in another program, for longer than anybody waits."""
    asker = Asker(desk.start())
    other = sqlite3.connect(desk.data / "keydesk.db", isolation_level=None)
    try:
        for _ in range(rounds(1, 3)):
            other.execute("begin exclusive")
            asker.refused()
            # A crowd waits no longer than one: nobody holds a connection while they wait for another.
            with concurrent.futures.ThreadPoolExecutor(60) as pool:
                crowd = list(pool.map(lambda ask: ask(asker), [Asker.read, Asker.revoke, Asker.rotate, Asker.token] * 15))
            assert {answer.status_code for answer in crowd} == {503}
            slowest = max(answer.took for answer in crowd)
            assert slowest < PATIENCE + MARGIN, f"{slowest:.1f} s"
            other.execute("rollback")
            asker.recovers(within=1)
            asker.spare = asker.tokens()["refresh_token"]
    finally:
        other.close()
    assert desk.stop() == 0
