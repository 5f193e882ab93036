"""No key without a line in the book, seen from the kernel: before each answer is written to its socket, the database's WAL
was written and synced. (kill -9 alone never shows this: the page cache survives the process.)"""

import re
import shutil
import subprocess
import time

import pytest
import requests

READS = 40
CALLS = "fdatasync,fsync,write,writev,sendto,sendmsg,pwrite64"


@pytest.fixture
def strace(desk, tmp_path):
    """strace on the running server; skips where the kernel does not let us trace."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    output = tmp_path / "strace"
    with (tmp_path / "stderr").open("wb") as errors:
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(desk.process.pid)],
            stderr=errors,
        )
    said = lambda: (tmp_path / "stderr").read_text()
    deadline = time.monotonic() + 20
    while "attached" not in said():
        if tracer.poll() is not None or time.monotonic() > deadline:
            tracer.kill()
            pytest.skip(f"tracing is not permitted here: {said().strip()}")
        time.sleep(0.05)
    yield tracer, output
    if tracer.poll() is None:
        tracer.terminate()
        tracer.wait(20)


def events(text):
    """The trace as ("wrote"|"synced"|"answered", whose line), in order. A call counts as done when it returned, and an
    answer as begun when its call began: the order that is worst for us."""
    unfinished = {}
    for line in text.splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        begins = not rest.startswith("<...")
        if begins and re.match(r"(write|writev|sendto|sendmsg)\(", rest) and '"HTTP/1.1 200' in rest:
            yield "answered", line
        if rest.endswith("<unfinished ...>"):
            unfinished[thread] = rest
            continue
        started = rest if begins else unfinished.pop(thread, "")
        if not re.match(r"\w+\(\d+<[^>]*-wal>", started):
            continue
        if re.match(r"(fdatasync|fsync)\(", started) and rest.endswith("= 0"):
            yield "synced", line
        elif started.startswith("pwrite64("):
            yield "wrote", line


def violations(trace):
    """The answers before which the WAL was not written and then synced, and how many answers there were."""
    wrong, answers, wrote, synced = [], 0, False, False
    for what, line in trace:
        if what == "wrote":
            wrote, synced = True, False
        elif what == "synced":
            synced = wrote
        else:
            answers += 1
            if not synced:
                wrong.append(line)
            wrote = synced = False
    return wrong, answers


def test_every_answer_waits_for_the_disk(desk, strace):
    tracer, output = strace
    with requests.Session() as session:
        session.headers["X-API-Key"] = desk.service_api_key
        for _ in range(READS):
            # One after the other: no sync is shared, so each answer must have its own.
            assert session.get(f"{desk.url}/llm-keys", timeout=30).status_code == 200
    tracer.terminate()
    tracer.wait(20)
    wrong, answers = violations(events(output.read_text()))
    assert answers == READS, "the trace does not show the answers"
    assert wrong == []


TRACE = """
7 pwrite64(12</d/keydesk.db-wal>, "x", 24, 32) = 24
7 fdatasync(12</d/keydesk.db-wal> <unfinished ...>
8 write(1</d/log>, "x", 1) = 1
7 <... fdatasync resumed>) = 0
8 sendto(9<socket:[1]>, "HTTP/1.1 200 OK\\r\\n", 17, MSG_NOSIGNAL, NULL, 0) = 17
"""


@pytest.mark.parametrize("trace, wrong", [
    (TRACE, 0),
    (TRACE.replace("7 <... fdatasync resumed>) = 0\n", ""), 1),
    (TRACE.replace("resumed>) = 0", "resumed>) = -1 EIO (Input/output error)"), 1),
    (TRACE.replace("keydesk.db-wal> <unf", "other> <unf"), 1),
    (TRACE + TRACE.splitlines()[-1], 1),
])
def test_the_reading_of_a_trace(trace, wrong):
    """Each way of answering too early would be seen."""
    assert len(violations(events(trace))[0]) == wrong
