"""No key without a line in the book, seen from the kernel: before an answer is written to its socket, the page that holds its
event was written to the WAL and synced. (kill -9 alone never shows this: the page cache survives the process.)

Answers that are looked at: 50, or 500 in the full form.
"""

import concurrent.futures
import re
import shutil
import subprocess
import threading
import time

import pytest
import requests

from conftest import FULL

READS = 500 if FULL else 50
AT_ONCE = 16
CALLS = "fdatasync,fsync,write,writev,sendto,sendmsg,pwrite64"


@pytest.fixture
def strace(desk, tmp_path):
    """strace on the running server; skips where the kernel does not let us trace."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    output = tmp_path / "strace"
    with (tmp_path / "stderr").open("wb") as errors:
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "8192", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(desk.process.pid)],
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


def violations(text):
    """The answers that began before their event was synced, and how many answers there were. A call counts as done when it
    returned, and an answer as begun when its call began: the order that is worst for us."""
    written, begun, synced = set(), {}, set()  # identifiers of requests: in the WAL; there when a sync began; on the disk
    unfinished = {}
    wrong, answers = [], 0
    for line in text.splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        resumed = rest.startswith("<...")
        started = unfinished.pop(thread, "") if resumed else rest
        of_wal = re.match(r"(\w+)\(\d+<[^>]*-wal>", started)
        call = of_wal and of_wal.group(1)
        if call in ("fdatasync", "fsync") and not resumed:
            begun[thread] = set(written)
        elif not resumed and re.match(r"(write|writev|sendto|sendmsg)\(", rest) and '"HTTP/1.1 200' in rest:
            answers += 1
            identifier = re.search(r"x-request-id: (req_[0-9a-f-]+)", rest)
            if not identifier or identifier.group(1) not in synced:
                wrong.append(line[:300])
        if rest.endswith("<unfinished ...>"):
            unfinished[thread] = rest
        elif call == "pwrite64":
            written |= set(re.findall(r"req_[0-9a-f-]{36}", started))
        elif call and rest.endswith("= 0"):
            synced |= begun[thread]
    return wrong, answers


@pytest.mark.sqlite("the disk is the server's")
def test_every_answer_waits_for_the_disk(desk, strace):
    """One after the other, so that each has a sync of its own, and many at once, which share one."""
    tracer, output = strace
    local = threading.local()

    def read(_):
        if not hasattr(local, "session"):
            local.session = requests.Session()
        answer = local.session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=60)
        assert answer.status_code == 200

    for number in range(READS // 2):
        read(number)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(read, range(READS - READS // 2)))
    tracer.terminate()
    tracer.wait(20)
    wrong, answers = violations(output.read_text(errors="replace"))
    assert answers == READS, "the trace does not show the answers"
    assert wrong == []


ONE, TWO = (f"req_01a206fe-9464-72c9-b7e6-7d51b77d85a{number}" for number in "67")
TRACE = f"""
7 pwrite64(12</d/keydesk.db-wal>, "\\0{ONE}\\1{TWO}x", 4096, 32) = 4096
7 fdatasync(12</d/keydesk.db-wal> <unfinished ...>
8 write(1</d/log>, "x", 1) = 1
7 <... fdatasync resumed>) = 0
8 sendto(9<socket:[1]>, "HTTP/1.1 200 OK\\r\\nx-request-id: {ONE}\\r\\n", 17, MSG_NOSIGNAL, NULL, 0) = 17
9 writev(9<socket:[2]>, [{{iov_base="HTTP/1.1 200 OK\\r\\nx-request-id: {TWO}\\r\\n", iov_len=17}}], 1) = 17
"""
LINES = TRACE.splitlines(keepends=True)


@pytest.mark.parametrize("trace, wrong", [
    (TRACE, 0),
    (TRACE.replace("7 <... fdatasync resumed>) = 0\n", ""), 2),
    (TRACE.replace("resumed>) = 0", "resumed>) = -1 EIO (Input/output error)"), 2),
    (TRACE.replace("keydesk.db-wal> <unf", "other> <unf"), 2),
    (TRACE.replace(f"{TWO}x", "x"), 1),
    # Written when the sync had begun already.
    ("".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]), 2),
])
def test_the_reading_of_a_trace(trace, wrong):
    """Each way of answering too early would be seen."""
    found, answers = violations(trace)
    assert (len(found), answers) == (wrong, 2)
