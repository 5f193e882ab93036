"""Nobody reads what the desk prints: it goes on, and it ends when it is told to."""

import contextlib
import fcntl
import os
import signal
import time

import pytest
import requests

READS = 300


@pytest.fixture
def pipes():
    """Two pipes: where to read, where to write."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(2):
            read, write = os.pipe()
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
            made.append((stack.enter_context(open(read, "rb", 0)), stack.enter_context(open(write, "wb", 0))))
        yield made


def close(pipes):
    for read, _ in pipes:
        read.close()


@pytest.mark.parametrize("when", ["never read", "closed from the start", "closed later"])
def test_output_that_nobody_reads(new_desk, pipes, when):
    desk = new_desk()
    if when == "closed from the start":
        close(pipes)
    desk.start(output=[write for _, write in pipes])
    if when == "closed later":
        close(pipes)
    with requests.Session() as session:
        for _ in range(READS):
            answer = session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=10)
            assert answer.status_code == 200 and answer.elapsed.total_seconds() < 5
    begun = time.monotonic()
    desk.process.send_signal(signal.SIGTERM)
    assert desk.process.wait(20) == 0
    assert time.monotonic() - begun < 15
