"""Clients that hold connections and give nothing: the desk stays quick for everybody else, and out of their reach.

The honest client comes from the same address as the others, over a new connection for every request.
"""

import asyncio
import contextlib
import pathlib
import resource
import select
import shutil
import socket
import subprocess
import sys
import time

import pytest

import rawhttp
from conftest import FULL

SLOW_CLIENTS = 2000
PROMISED = 0.5  # seconds: the 99th percentile of an honest client's requests
ENOUGH = 200  # requests: of fewer, the 99th percentile is the slowest
PATIENCE = 120  # seconds


@pytest.fixture(scope="module", autouse=True)
def enough_descriptors():
    """Both ends of every connection are on this machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cpu_seconds(desk):
    fields = pathlib.Path(f"/proc/{desk.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def descriptors(desk):
    return len(list(pathlib.Path(f"/proc/{desk.process.pid}/fd").iterdir()))


def ask(desk, key):
    """One honest request; how long it took."""
    begun = time.monotonic()
    answer = rawhttp.send(desk.port, "GET", "/llm-keys", [("X-API-Key", key)])
    assert answer.status == 200, (answer.status, answer.body)
    return time.monotonic() - begun


def percentile(values, part=0.99):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def ask_under(attack, desk):
    """How long honest requests take while `attack`, which is begun again whenever it is over, goes on."""
    begun, taken, attackers = time.monotonic(), [], attack()
    try:
        time.sleep(2)
        while time.monotonic() - begun < 7 or len(taken) < ENOUGH:
            assert time.monotonic() - begun < PATIENCE, f"{len(taken)} requests in {PATIENCE} s"
            if attackers.poll() is not None:
                assert attackers.returncode == 0
                attackers = attack()
            taken.append(ask(desk, desk.service_api_key))
            time.sleep(0.01)
    finally:
        attackers.kill()
        attackers.wait()
    print(f"{len(taken)} requests, p99 {percentile(taken):.3f} s")
    return taken


WAYS = {
    "silent": (b"", b""),
    "header": (b"GET /llm-keys HTTP/1.1\r\nHost: localhost\r\n", b"X: 1\r\n"),
    "byte": (b"", b"G"),
    "body": (
        b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 9999\r\n\r\n",
        b"a",
    ),
    "idle": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    "read": (b"GET /docs/swagger-ui.js HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
}


async def hold(port, way, until):
    """A slow client that comes back whenever it is thrown out."""
    first, more = WAYS[way]
    loop = asyncio.get_running_loop()
    while time.monotonic() < until:
        with socket.socket() as connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, first)
            while time.monotonic() < until:
                await asyncio.sleep(1)
                if more:
                    await loop.sock_sendall(connection, more)
                elif way != "read" and not await still_there(connection):
                    break
                elif way == "read":
                    with contextlib.suppress(BlockingIOError):
                        if not connection.recv(1):
                            break
        await asyncio.sleep(1)


async def still_there(connection):
    with contextlib.suppress(BlockingIOError):
        while data := connection.recv(4096):
            pass
        return data != b""
    return True


async def besiege(port, ways, count, until):
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(hold(port, ways[number % len(ways)], until))


SIEGES = [["silent"], ["header"], ["body"], ["read"], list(WAYS)] if FULL else [["header"], list(WAYS)]


@pytest.mark.parametrize("ways", SIEGES, ids="+".join)
def test_an_honest_client_does_not_notice_two_thousand_slow_ones(new_desk, ways):
    desk = new_desk(RUST_LOG="warn").start()
    before, begun = cpu_seconds(desk), time.monotonic()
    siege = f"""
import asyncio, resource, sys, time
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import test_edge_slow as slow
asyncio.run(slow.besiege({desk.port}, {ways!r}, {SLOW_CLIENTS}, time.monotonic() + {PATIENCE}))
"""
    taken = ask_under(lambda: subprocess.Popen([sys.executable, "-c", siege]), desk)
    assert percentile(taken) < PROMISED, sorted(taken)[-10:]
    assert cpu_seconds(desk) - before < time.monotonic() - begun, "a whole processor is too much for clients that do nothing"
    assert desk.get("/health").status_code == 200
    desk.stop()


def time_to_close(port, first, more=b"", patience=25, pause=1.0):
    """How long the desk keeps a connection on which this is sent, and what it said."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        begun = time.monotonic()
        connection.sendall(first)
        heard = b""
        while time.monotonic() - begun < patience:
            readable, _, _ = select.select([connection], [], [], pause)
            if readable:
                try:
                    data = connection.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    return time.monotonic() - begun, heard
                heard += data
            elif more:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(more)
        return None, heard


@pytest.mark.parametrize("way, least, most, says", [
    ("silent", 9, 13, None), ("byte", 9, 13, None), ("header", 9, 13, None), ("body", 14, 18, b"HTTP/1.1 408 "),
])
def test_slow_clients_are_closed_in_time(desk, way, least, most, says):
    first, more = WAYS[way]
    seconds, heard = time_to_close(desk.port, first, more)
    assert seconds and least < seconds < most, seconds
    assert heard.startswith(says) if says else heard == b""


@pytest.mark.parametrize("arguments", [
    ["-H", "-i", "2"], ["-B", "-i", "2", "-s", "8192"], ["-X", "-w", "10", "-y", "20", "-n", "2", "-z", "8"],
], ids=["headers", "body", "read"])
def test_slowhttptest(new_desk, arguments):
    tool = shutil.which("slowhttptest")
    assert tool, "scripts/test installs slowhttptest"
    desk = new_desk(RUST_LOG="warn").start()
    target = f"{desk.url}/token" if "-B" in arguments else f"{desk.url}/docs/swagger-ui.js" if "-X" in arguments else f"{desk.url}/health"
    taken = ask_under(lambda: subprocess.Popen(
        [tool, *arguments, "-c", "1500", "-r", "500", "-l", "10", "-p", "3", "-u", target],
        cwd=desk.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ), desk)
    assert percentile(taken) < PROMISED, sorted(taken)[-10:]
    desk.stop()


def test_with_few_descriptors_it_neither_spins_nor_fails(new_desk):
    desk = new_desk(RUST_LOG="warn")
    # In a shell of its own: whoever runs the tests needs more.
    desk.prefix = ["sh", "-c", 'ulimit -S -n 64; exec "$0" "$@"']
    desk.start()
    idle = descriptors(desk)
    crowd = []
    try:
        for _ in range(100):
            crowd.append(socket.create_connection(("127.0.0.1", desk.port)))
        time.sleep(1)
        before, begun = cpu_seconds(desk), time.monotonic()
        time.sleep(3)
        assert cpu_seconds(desk) - before < 0.1 * (time.monotonic() - begun), "it spins"
        assert idle < descriptors(desk) < 64
        for _ in range(20):
            assert ask(desk, desk.service_api_key) < 5
            # Reads and writes the database.
            assert desk.login()
    finally:
        for connection in crowd:
            connection.close()
    desk.cli("user", "add", "alice", "--password-stdin", stdin="correct horse battery staple")
    assert desk.get("/health/ready").json()["status"] == "ready"
    assert b"cannot open" not in desk.log.read_bytes() and b"unable to open" not in desk.log.read_bytes()
    assert desk.stop() == 0
