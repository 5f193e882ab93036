"""A load process: some hundred clients that read keys, rotate them and refresh sessions, and write down what they saw.

`Load` starts some of them and tells what to do as JSON on standard input. A client that is cut off ends, unless it is
told to go on.
"""

import asyncio
import contextlib
import json
import math
import os
import pathlib
import random
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse

from history import History, digest
from sources import Client, fresh_source

CLIENTS_PER_SOURCE = 25


class Load:
    """Load processes on one desk. `mix` says how often which operation is chosen."""

    MIX = {"read": 80, "rotate": 10, "refresh": 10}

    def __init__(self, desk, folder, clients=200, processes=2, mix=None, **more):
        self.desk, self.folder, self.sessions = desk, pathlib.Path(folder), {}
        self.mix, self.more, self.clients = mix or self.MIX, more, clients // processes
        groups = -(-self.clients // CLIENTS_PER_SOURCE)
        self.sources = [[fresh_source() for _ in range(groups)] for _ in range(processes)]
        self.rounds, self.processes, self.files, self.history = 0, [], [], None

    def log_in(self):
        """A few sessions for each source; a session is refreshed from where it began."""
        if "refresh" not in self.mix:
            return
        if self.history:
            # Those that were used go on from what the history knows, if it does.
            for name in list(self.sessions):
                if name in self.history.current:
                    self.sessions[name] = self.history.current[name]
                elif name in self.history.used:
                    del self.sessions[name]
        for source in sum(self.sources, []):
            for number in range(3):
                name = f"{source} {number}"
                if name not in self.sessions:
                    with Client(self.desk, source) as client:
                        reply = client.login("admin", self.desk.env["KEYDESK_ADMIN_PASSWORD"])
                    assert reply.status == 200, reply.body
                    self.sessions[name] = reply.json()["refresh_token"]

    def start(self):
        self.rounds += 1
        self.files, self.processes = [], []
        self.log_in()
        token = self.desk.login(scope="admin llm-keys:write")
        for number, sources in enumerate(self.sources):
            path = self.folder / f"history-{self.rounds}-{number}"
            path.touch()
            self.files.append(path)
            orders = {
                "port": self.desk.port, "history": str(path), "clients": self.clients, "mix": self.mix,
                "api_key": self.desk.service_api_key, "token": token, "password": self.desk.env["KEYDESK_ADMIN_PASSWORD"],
                "groups": [{"source": source, "sessions": {name: secret for name, secret in self.sessions.items()
                                                           if name.startswith(f"{source} ")}} for source in sources],
                **self.more,
            }
            process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE)
            process.stdin.write(json.dumps(orders).encode())
            process.stdin.close()
            self.processes.append(process)
        return self

    def answered(self):
        """How many good answers were written down so far."""
        return sum(path.read_bytes().count(b'"status": 200') for path in self.files)

    def wait_for(self, answers, within=60):
        """Not before something happened, or nothing would be tested."""
        deadline = time.monotonic() + within
        while self.answered() < answers:
            assert time.monotonic() < deadline, f"only {self.answered()} answers in {within} s"
            assert any(process.poll() is None for process in self.processes), f"all ended after {self.answered()} answers"
            time.sleep(0.02)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        """Whatever has failed: nobody is left behind who goes on."""
        for process in self.processes:
            process.kill()
            process.wait()

    def end(self, patience=30):
        """Waits until the clients have noticed that it is over; returns their history."""
        for process in self.processes:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.returncode in (0, -signal.SIGTERM, -signal.SIGKILL), "a load process failed; its words are above"
        self.history = History(self.files)
        return self.history

    def stop(self):
        """Ends clients that go on whatever happens; returns their history."""
        for process in self.processes:
            process.terminate()
        return self.end()


class Process:
    def __init__(self, orders):
        self.orders = orders
        self.file = os.open(orders["history"], os.O_WRONLY | os.O_APPEND)
        self.operations = list(orders["mix"])
        self.weights = [orders["mix"][name] for name in self.operations]
        self.count = 0
        self.ends = time.monotonic() + orders.get("seconds", 600)

    def write(self, **entry):
        """Given to the kernel at once: our own death loses nothing, and this machine does not lose its power."""
        os.write(self.file, json.dumps(entry).encode() + b"\n")

    async def run(self):
        async with asyncio.TaskGroup() as tasks:
            for group in self.orders["groups"]:
                sessions = list(group["sessions"].items())
                for _ in range(self.orders["clients"] // len(self.orders["groups"])):
                    tasks.create_task(self.client(group["source"], sessions))

    async def client(self, source, sessions):
        connection = Connection(self.orders["port"], source)
        pause = self.orders.get("pause", 0)
        if pause:
            await asyncio.sleep(random.uniform(0, pause))
        while time.monotonic() < self.ends and self.count < self.orders.get("requests", math.inf):
            begun = time.monotonic()
            name = random.choices(self.operations, self.weights)[0]
            self.count += 1
            try:
                status = await getattr(self, name)(connection, self.count, sessions)
                if status == 503:
                    await asyncio.sleep(random.uniform(0.5, 1.5))  # Retry-After: 1
            except (OSError, asyncio.IncompleteReadError):
                connection.close()
                if not self.orders.get("go_on"):
                    return
                await asyncio.sleep(0.05)
            if pause:
                await asyncio.sleep(max(0.0, begun + pause * random.uniform(0.5, 1.5) - time.monotonic()))
        connection.close()

    async def read(self, connection, n, _):
        one = random.random() < 0.5
        status, headers, body = await connection.ask(
            "GET", "/llm-keys/openai" if one else "/llm-keys", {"X-API-Key": self.orders["api_key"]})
        entry = {"op": "read", "n": n, "status": status, "id": headers.get("x-request-id")}
        if status == 200:
            given = json.loads(body)
            if one:
                entry |= {"key": digest(given["key"]), "version": given["version"], "providers": ["openai"]}
            else:
                entry |= {"key": digest(given["openai"]), "providers": sorted(given)}
        self.write(**entry)
        return status

    async def rotate(self, connection, n, _):
        key = f"sk-proj-CANARY{secrets.token_hex(20)}"
        self.write(op="rotate", n=n, key=digest(key))
        status, headers, body = await connection.ask(
            "PUT", "/admin/projects/default/keys/openai",
            {"Authorization": f"Bearer {self.orders['token']}", "Content-Type": "application/json"},
            json.dumps({"key": key}).encode())
        status = 200 if status == 201 else status
        self.write(op="rotate", n=n, status=status, id=headers.get("x-request-id"),
                   version=json.loads(body)["version"] if status == 200 else None)
        return status

    async def refresh(self, connection, n, sessions):
        if not sessions:
            return await self.read(connection, n, sessions)
        # Taken away while it is used, so that each token is shown by one client.
        name, token = sessions.pop(random.randrange(len(sessions)))
        try:
            self.write(op="refresh", n=n, session=name, shown=token, at=time.time())
            status, _, body = await connection.form(
                "/token", grant_type="refresh_token", refresh_token=token, client_id="keydesk")
            shown, token = token, json.loads(body)["refresh_token"] if status == 200 else token
            self.write(op="refresh", n=n, session=name, shown=shown, next=token, status=status)
            return status
        finally:
            sessions.append((name, token))

    # What only makes work.

    async def wrong_login(self, _, n, __):
        """From an address of its own, as a name that nobody has, or somebody if there are `users`."""
        name = random.choice([f"nobody{secrets.token_hex(4)}", *(name for name, _ in self.orders.get("users", ()))])
        connection = Connection(self.orders["port"], f"127.{random.randint(90, 120)}.{random.randint(0, 255)}.{random.randint(1, 254)}")
        try:
            status, headers, _ = await connection.form(
                "/token", grant_type="password", username=name, password=f"CANARY{secrets.token_hex(12)}")
            self.write(op="wrong_login", n=n, status=200 if status in (400, 429, 503) else status, said=status,
                       retry_after=headers.get("retry-after"))
        finally:
            connection.close()

    async def login(self, connection, n, _):
        name, password = random.choice(self.orders.get("users") or [("admin", self.orders["password"])])
        status, headers, _ = await connection.form("/token", grant_type="password", username=name, password=password)
        # That many have failed as this user is said to nobody who does so for the first time from here.
        ordinary = (503, 429) if "users" in self.orders else (503,)
        self.write(op="login", n=n, status=200 if status in ordinary else status, said=status,
                   retry_after=headers.get("retry-after"))

    async def wrong_key(self, connection, n, _):
        status, _, _ = await connection.ask("GET", "/llm-keys", {"X-API-Key": f"wrong-CANARY{secrets.token_hex(24)}"})
        self.write(op="wrong_key", n=n, status=200 if status == 401 else status)

    async def public(self, connection, n, _):
        status, _, _ = await connection.ask("GET", random.choice(["/.well-known/jwks.json", "/health/ready", "/openapi.json"]))
        self.write(op="public", n=n, status=status)

    async def abort(self, _, n, sessions):
        """Leaves within 20 ms, in the middle of whatever it was."""
        connection = Connection(self.orders["port"], fresh_address())
        what = random.choice([self.read, self.rotate, self.login, self.wrong_login, self.public])
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            await asyncio.wait_for(what(connection, n, []), random.uniform(0, 0.02))
        connection.abort()
        self.write(op="abort", n=n, status=200)


def fresh_address():
    return f"127.{random.randint(121, 150)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


class Connection:
    """HTTP/1.1 on one connection, opened when needed."""

    def __init__(self, port, source):
        self.port, self.source, self.writer = port, source, None

    async def ask(self, method, path, headers=(), body=b""):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.source, 0))
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in dict(headers).items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        answer = await self.reader.readexactly(int(fields.get("content-length", 0)))
        if fields.get("connection", "").lower() == "close":
            self.close()
        return int(head[0].split(" ")[1]), fields, answer

    async def form(self, path, **fields):
        return await self.ask(
            "POST", path, {"Content-Type": "application/x-www-form-urlencoded"}, urllib.parse.urlencode(fields).encode())

    def close(self):
        if self.writer:
            self.writer.close()
            self.writer = None

    def abort(self):
        if self.writer:
            self.writer.transport.abort()
            self.writer = None


if __name__ == "__main__":
    asyncio.run(Process(json.load(sys.stdin)).run())
