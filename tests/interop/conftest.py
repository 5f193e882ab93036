"""The built binary, started the way a user starts it, and nothing of ours between it and the tests.

The tests speak HTTP and the command line only. `KEYDESK_BIN` names the binary.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

pytest.register_assert_rewrite("pages")  # its assertions are to say what they saw

import canaries
import engine

# Whoever runs in the background is started with these ignored, and would hand that on to every program under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Many principals at once are made as the measurements make them.
sys.path.append(str(ROOT / "benches" / "load"))
import seed  # noqa: E402, F401
WORK = ROOT / "target" / "interop"
BINARY = os.environ.get("KEYDESK_BIN") or str(ROOT / "target" / "debug" / "keydesk")

PASSWORD = "correct horse battery staple"

# The full form of the suites takes an hour and is what a release goes through; the quick form is for every day.
FULL = os.environ.get("KEYDESK_FULL") == "1"


def rounds(quick, full):
    """How often to repeat what is left to chance. KEYDESK_ROUNDS has the last word."""
    return max(1, min(1000, int(os.environ.get("KEYDESK_ROUNDS") or (full if FULL else quick))))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def provider_keys():
    """Keys that would be noticed anywhere: one per conventional variable, new for every desk."""
    return {
        "OPENAI_API_KEY": f"sk-proj-CANARY{secrets.token_hex(20)}",
        "ANTHROPIC_API_KEY": f"sk-ant-api03-CANARY{secrets.token_hex(20)}",
        "GEMINI_API_KEY": f"AIzaCANARY{secrets.token_hex(15)}",
        "DEEPSEEK_API_KEY": f"sk-CANARY{secrets.token_hex(16)}",
    }


class Desk:
    """One keydesk in its own empty directory."""

    def __init__(self, home, binary=BINARY, **settings):
        self.home, self.binary = pathlib.Path(home), binary
        self.home.mkdir(parents=True, exist_ok=True)
        self.data = self.home / "keydesk-data"
        self.logs = self.home / "logs"
        self.logs.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.keys = provider_keys()
        self.service_api_key = f"svc-CANARY{secrets.token_hex(20)}"
        # Nothing is inherited: a real OPENAI_API_KEY of whoever runs the tests must not be read, let alone imported.
        self.plain_env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8", "RUST_LOG": "trace"}
        self.env = {
            **self.plain_env,
            **self.keys,
            "SERVICE_API_KEY": self.service_api_key,
            "KEYDESK_ADMIN_PASSWORD": PASSWORD,
            # Tests ask more often than people; those that are about limits set their own.
            **{f"KEYDESK_LIMITS__{limit}": "off" for limit in ("KEYS", "TOKEN", "INTROSPECT")},
            **settings,
        }
        # Where the database is: a file, or on a server the name of one.
        self.database = self.data / "keydesk.db"
        if engine.ON_POSTGRES and "DATABASE_URL" not in settings:
            self.use_database(engine.new_database())
        self.prefix = []  # what the server is started with
        self.process = None
        self.starts = 0
        canaries.DESKS.append(self)
        for secret in (self.service_api_key, self.env["KEYDESK_ADMIN_PASSWORD"], *self.keys.values()):
            canaries.remember(secret, "the environment")

    # The database.

    def use_database(self, name):
        """From now on it has this one on the server."""
        self.database = name
        self.env["DATABASE_URL"] = self.plain_env["DATABASE_URL"] = engine.url(name)

    def connect(self):
        """A connection of somebody who looks into the database, or changes it."""
        return engine.connect(self.database)

    def stored(self):
        """The files in which all is that the desk keeps; of a database on a server a dump."""
        if isinstance(self.database, str):
            engine.dump(self.database, self.home / "dump.sql")
        return [path for path in (*canaries.files(self.data), self.home / "dump.sql") if path.exists()]

    # The server.

    def start(self, wait=30, output=None):
        """Starts the server and waits until it says that it is healthy. `output` takes the place of the log: where to print
        and where to report."""
        self.starts += 1
        self.log = self.logs / f"serve-{self.starts}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.binary, "serve", "--listen", f"127.0.0.1:{self.port}"],
                cwd=self.home, env=self.env, stdin=subprocess.DEVNULL,
                stdout=output[0] if output else log, stderr=output[1] if output else log,
                umask=0,  # the strictest test of file modes: nothing is private unless keydesk makes it so
            )
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"keydesk stopped with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"keydesk was not healthy after {wait} s:\n{self.tail()}")

    def tail(self, size=3000):
        return self.log.read_text(errors="replace")[-size:]

    def kill(self):
        """`kill -9`: no chance to say goodbye."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def stop(self):
        """What a service manager does; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def keep(self):
        """Sets the data aside for the search for secrets, because where it is now will be gone."""
        kept = self.home / "kept"
        if self.data.exists() and not kept.exists():
            shutil.copytree(self.data, kept, ignore=shutil.ignore_patterns("lost+found", "filler"))

    # The command line.

    def run(self, *arguments, stdin=""):
        """Runs `keydesk ARGUMENTS` beside the server; its diagnostics go to the logs, where secrets are searched for."""
        done = subprocess.run(
            [self.binary, *arguments], cwd=self.home, env=self.plain_env, input=stdin, text=True,
            capture_output=True, timeout=60, umask=0,
        )
        with (self.logs / "cli.log").open("a") as log:
            log.write(done.stderr)
            if arguments[0] in ("audit", "config"):
                log.write(done.stdout)
        for line in stdin.splitlines():
            canaries.remember(line, f"what was typed at keydesk {' '.join(arguments[:2])}")
        canaries.remember_body(done.stdout, f"keydesk {' '.join(arguments[:2])}")
        return done

    def cli(self, *arguments, stdin=""):
        """Like `run`, for a command that must succeed; returns what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"keydesk {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}"
        return done.stdout

    def cli_json(self, *arguments, stdin=""):
        return json.loads(self.cli(*arguments, "--json", stdin=stdin))

    # HTTP.

    def get(self, path, **options):
        return requests.get(f"{self.url}{path}", timeout=30, **options)

    def token_response(self, **options):
        return requests.post(f"{self.url}/token", timeout=30, **options)

    def login(self, username="admin", password=PASSWORD, **more):
        """An access token by the password grant."""
        form = {"grant_type": "password", "username": username, "password": password, **more}
        answer = self.token_response(data=form)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def expected_keys(self):
        """What `/llm-keys` must answer for the keys given in the environment."""
        return {variable.removesuffix("_API_KEY").lower(): key for variable, key in self.keys.items()}


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_left_anywhere(tmp_path_factory, request):
    """After everything: no secret that took part in any test is in any file that any desk wrote, nor in what it answered to
    those who were refused."""
    errors = tmp_path_factory.mktemp("answers") / "errors"
    canaries.watch(requests.Session, errors)
    if engine.ON_POSTGRES:
        canaries.remember(engine.PASSWORD, "the password of the database")
    yield
    begun = time.monotonic()
    found, places = canaries.search_everything(errors)
    size = sum(path.stat().st_size for path in places) >> 20
    request.config.pluginmanager.getplugin("terminalreporter").write_line(
        f"\n{len(canaries.KNOWN)} secrets looked for in {len(places)} files, {size} MB, in {time.monotonic() - begun:.0f} s")
    assert found == []


def pytest_configure(config):
    config.addinivalue_line("markers", "sqlite(reason): is about SQLite's file")


def pytest_collection_modifyitems(items):
    for item in items if engine.ON_POSTGRES else ():
        for marker in item.iter_markers("sqlite"):
            item.add_marker(pytest.mark.skip(reason=f"not on PostgreSQL: {marker.args[0]}"))


@pytest.fixture(scope="session")
def new_desk(tmp_path_factory, no_secret_is_left_anywhere):
    """Makes desks, and ends them all when the tests end."""
    desks = []

    def make(**settings):
        desks.append(Desk(tmp_path_factory.mktemp("desk"), **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.kill()


@pytest.fixture(scope="module")
def desk(new_desk):
    """One running desk for a file of tests."""
    running = new_desk().start()
    yield running
    running.stop()


def eventually(check, within=1.5):
    """Waits for what the desk promises within a second; returns the last answer."""
    deadline = time.monotonic() + within
    while True:
        answer = check()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)
