"""The two servers: the desk with everything on, and a bare one that knows one answer.

A desk is made once with all that the figures need (users, a service account, provider keys), and every round begins with a
copy of it, so that no round pays for what the one before has written.
"""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.parse

from wrk import TICK, Request

ADMIN_PASSWORD = "seven quiet herons cross the weir"
USER_PASSWORD = "nine copper kettles on the stove"
USERS = [f"user-{number}" for number in range(16)]
# The shape of real ones, and nobody's.
PROVIDER_KEYS = {
    "OPENAI_API_KEY": "sk-proj-" + "Ab3dEf6hIj9k" * 13,
    "ANTHROPIC_API_KEY": "sk-ant-api03-" + "Zy8xWv5uTs2r" * 8,
    "GEMINI_API_KEY": "AIzaSy" + "Qw7eRt4yUi1o" * 3,
    "DEEPSEEK_API_KEY": "sk-" + "0123456789abcdef" * 2,
}
# Far above what any machine reaches: the limiter works as ever and refuses nobody.
NO_REFUSALS = {f"KEYDESK_LIMITS__{limit}": "1000000/second" for limit in ("KEYS", "TOKEN", "INTROSPECT")}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process that listens on a port of its own."""

    process = None

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def launch(self, command, log, **options):
        self.log = pathlib.Path(log)
        self.begun = time.perf_counter()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
        return self

    def wait_until_healthy(self, within=30):
        """Asks without a pause worth mentioning; tells how long it took from the launch, in milliseconds."""
        while time.perf_counter() - self.begun < within:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args[0]} stopped:\n{self.log.read_text(errors='replace')[-3000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask(Request("/health"))[0] == 200:
                    return (time.perf_counter() - self.begun) * 1000
            time.sleep(0.0005)
        raise RuntimeError(f"{self.process.args[0]} was not healthy after {within} s")

    def ask(self, request):
        """Status and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(request.method, request.path, request.body or None, dict(request.headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def must(self, request):
        status, body = self.ask(request)
        if status != 200:
            raise RuntimeError(f"{request.method} {request.path}: {status}\n{body}")
        return body

    def cpu(self):
        """How long it has worked, in seconds."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self):
        """What it has in memory, in MiB."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Bare(Server):
    """The server that knows one answer."""

    read = Request("/llm-keys")

    def start(self, binary, home, body):
        self.launch([binary, str(self.port), body], pathlib.Path(home) / "bare.log")
        self.wait_until_healthy()
        return self


class Desk(Server):
    """The real binary on a data directory in `home`, which it makes if there is none."""

    def __init__(self, binary, home, **settings):
        super().__init__()
        self.binary, self.home, self.metrics_port = binary, pathlib.Path(home), free_port()
        self.home.mkdir(parents=True, exist_ok=True)
        # Nothing is inherited: the real keys of whoever runs this are not to be imported.
        self.plain = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        self.settings = {**NO_REFUSALS, "KEYDESK_METRICS__LISTEN": f"127.0.0.1:{self.metrics_port}", **settings}

    def start(self, **secrets):
        env = {**self.plain, **self.settings, **secrets}
        command = [self.binary, "serve", "--listen", f"127.0.0.1:{self.port}"]
        self.launch(command, self.home / "serve.log", cwd=self.home, env=env, umask=0o077)
        self.started_in = self.wait_until_healthy()
        return self

    def run(self, *arguments, stdin=""):
        """`keydesk ARGUMENTS` beside the server."""
        done = subprocess.run(
            [self.binary, *arguments], cwd=self.home, env=self.plain, input=stdin, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"keydesk {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @classmethod
    def prepare(cls, binary, home):
        """A desk with users, a service account and provider keys, stopped: the one that is copied."""
        desk = cls(binary, home)
        with desk.start(KEYDESK_ADMIN_PASSWORD=ADMIN_PASSWORD, **PROVIDER_KEYS):
            for user in USERS:
                desk.run("user", "add", user, "--project", "default", "--password-stdin", stdin=USER_PASSWORD)
            desk.run("service-account", "add", "tool", "--project", "default", "--file", "tool.json")
        desk.log.unlink()
        return desk

    def copy(self, home, **settings):
        """Another desk, with all that this one has."""
        shutil.copytree(self.home, home)
        return Desk(self.binary, home, **settings)

    def remove(self):
        shutil.rmtree(self.home)

    # What is asked of it.

    @property
    def account(self):
        return json.loads((self.home / "tool.json").read_text())

    @property
    def by_api_key(self):
        return Request("/llm-keys", (("X-API-Key", self.account["token"]),))

    def by_jwt(self):
        token = json.loads(self.must(login(USERS[0])))["access_token"]
        return Request("/llm-keys", (("Authorization", f"Bearer {token}"),))

    @property
    def by_client_credentials(self):
        pair = f"{self.account['client_id']}:{self.account['client_secret']}"
        basic = base64.b64encode(pair.encode()).decode()
        return token_request({"grant_type": "client_credentials"}, ("Authorization", f"Basic {basic}"))

    # What it says of itself.

    def metric(self, name):
        """The value of a metric without labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        for line in page.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise RuntimeError(f"the desk has no metric {name}")

    def permits(self):
        """How many passwords it hashes at a time: its threads of that name."""
        names = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/comm")
        return sum(name.read_text().strip() == "password" for name in names)

    def hash_time(self, logins):
        """How long one password takes to hash, in milliseconds, with nothing else to do."""
        before = [self.metric(f"keydesk_password_hash_duration_seconds_{part}") for part in ("sum", "count")]
        for number in range(logins):
            self.must(login(USERS[number % len(USERS)]))
        after = [self.metric(f"keydesk_password_hash_duration_seconds_{part}") for part in ("sum", "count")]
        return (after[0] - before[0]) / (after[1] - before[1]) * 1000

    @property
    def database(self):
        return self.home / "keydesk-data" / "keydesk.db"

    def events(self, action):
        """How many lines of the book say that `action` was allowed."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            count = "select count(*) from audit_events where action = ? and outcome = 'allowed'"
            return db.execute(count, (action,)).fetchone()[0]


def token_request(form, *headers):
    form_type = ("Content-Type", "application/x-www-form-urlencoded")
    return Request("/token", (form_type, *headers), "POST", urllib.parse.urlencode(form))


def login(user, password=USER_PASSWORD, *headers, **more):
    return token_request({"grant_type": "password", "username": user, "password": password, **more}, *headers)
