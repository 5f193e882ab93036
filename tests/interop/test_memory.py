"""Mixed load, with failures, names that nobody has and clients that leave, inside 256 MB: memory does not grow, and what is
over is forgotten.

A minute on the debug build; ten minutes on the release build (KEYDESK_RELEASE_BIN) in the full form.
"""

import contextlib
import os
import pathlib
import platform
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

from conftest import BINARY, FULL
from load import Load

SECONDS, WARM_UP = (600, 120) if FULL else (60, 20)
PER_SECOND = 200
CLIENTS = 100
LIMIT = 256 << 20
MIX = {"read": 62, "refresh": 12, "rotate": 2, "public": 6, "wrong_key": 8, "wrong_login": 3, "login": 1, "abort": 6}


@contextlib.contextmanager
def limited():
    """A control group of 256 MB: what a command starts with to be in it. Without one, memory is only watched."""
    for root, limit in ((pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (pathlib.Path("/sys/fs/cgroup"), "memory.max")):
        group = root / f"keydesk-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(LIMIT))
                yield ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
                return
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
    print("no control group can be made here: memory is watched, not limited")
    yield []


def resident(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the server has gone")


def arenas(desk):
    """How many of glibc's arenas there are beside the first: each begins at a multiple of 64 MB."""
    maps = pathlib.Path(f"/proc/{desk.process.pid}/maps").read_text().splitlines()
    regions = [(int(line.split("-")[0], 16), line.split()[1]) for line in maps]
    return sum(start % (64 << 20) == 0 and access == "rw-p" for start, access in regions)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or os.geteuid() != 0, reason="looks into a process, and at glibc's habits")
def test_memory_is_divided_among_processors_only(new_desk):
    """What one arena has free is of no use in another: glibc's own eight for each processor cost more than what is in use."""
    processors = len(os.sched_getaffinity(0))
    for settings, expected in (({}, range(processors)), ({"MALLOC_ARENA_MAX": "64"}, range(processors, 64))):
        desk = new_desk(**settings).start()
        with ThreadPoolExecutor(8) as threads:
            assert all(answer.status_code == 200 for answer in threads.map(lambda _: desk.get("/health/ready"), range(64)))
        assert arenas(desk) in expected, settings
        desk.stop()


@pytest.mark.sqlite("it counts what is in the file")
def test_memory_does_not_grow(new_desk, tmp_path):
    with limited() as prefix:
        desk = new_desk(KEYDESK_TOKEN__ACCESS_TTL="60m", RUST_LOG="info")
        desk.binary, desk.prefix = FULL and os.environ.get("KEYDESK_RELEASE_BIN") or BINARY, prefix
        try:
            watch(desk.start(), tmp_path)
        finally:
            desk.stop()


def watch(desk, folder):
    load = Load(desk, folder, clients=CLIENTS, mix=MIX, pause=CLIENTS / PER_SECOND, seconds=SECONDS, go_on=True).start()
    begun, samples = time.monotonic(), []
    while any(process.poll() is None for process in load.processes):
        samples.append(((time.monotonic() - begun) / 60, resident(desk.process)))
        if len(samples) % 60 == 0:
            print(f"{samples[-1][0]:.1f} min: {samples[-1][1]:.1f} MB, {load.answered()} answers", flush=True)
        time.sleep(1)
    history, took = load.end(), time.monotonic() - begun
    assert not history.surprises, history.surprises[:3]
    rate = load.answered() / took

    # A password takes 19 MB while it is hashed, and gives them back: what stays is the least of some seconds.
    lasting = [(at, min(size for _, size in samples[max(0, n - 9):n + 1])) for n, (at, _) in enumerate(samples)]
    late = [sample for sample in lasting if sample[0] > WARM_UP / 60]
    slope = numpy.polyfit(*zip(*late, strict=True), 1)[0]
    peak = max(size for _, size in samples)
    print(f"{rate:.0f} answers a second for {took:.0f} s: {late[0][1]:.1f} MB after the warm-up, {late[-1][1]:.1f} MB at the end, "
          f"peak {peak:.1f} MB, slope {slope:+.2f} MB/min; {history}", flush=True)
    assert rate > PER_SECOND / 4, "hardly any load"
    assert peak < LIMIT / (1 << 20)
    # In a minute, one step of the allocator is a slope; what grows without an end grows by more.
    assert slope < 1 or (not FULL and late[-1][1] - late[0][1] < 4), f"{slope:.2f} MB a minute"

    connection = sqlite3.connect(f"file:{desk.data / 'keydesk.db'}?mode=ro", uri=True)
    over = int((time.time() - 120) * 1e6)
    for table, column in (("throttles", "window_end"), ("revoked_tokens", "expires_at")):
        kept = connection.execute(f"select count(*) from {table} where {column} < ?", (over,)).fetchone()[0]
        assert kept == 0, f"{kept} rows of {table} are over and still there"
    connection.close()
