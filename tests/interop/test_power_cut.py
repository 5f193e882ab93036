"""The power fails under load: whatever was acknowledged is on the disk, and not only in the kernel's memory.

The desk's data is on a file system in a file. At a random moment the server is stopped and the file is copied, which is what
the disk would hold if the power had failed then; a second server starts on the copy. That this test can fail is shown
by a desk that does not wait for its disk.

Rounds: 3, or 20 in the full form.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

import pytest

from conftest import BINARY, FULL, ROOT, WORK, Desk, rounds
from disks import Image
from history import check, check_files, digest, now, openai
from load import Load

pytestmark = pytest.mark.sqlite("the disk is the server's")


@contextlib.contextmanager
def desk_on_a_disk(tmp_path, binary=BINARY):
    """In memory, so that nothing else writes it back and the copy takes no time."""
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        desk = Desk(tmp_path / "desk", binary=binary)
        image = Image(folder, desk.data)
        try:
            image.make()
            yield desk.start(), image
        finally:
            desk.kill()
            desk.keep()
            image.close()


def cut_the_power(desk, image, load, tmp_path):
    """Stops everything at a random moment under load, and puts in its place what was on the disk then."""
    load.start().wait_for(answers=200)
    time.sleep(random.uniform(0, 1))
    desk.process.send_signal(signal.SIGSTOP)
    disk = image.snapshot()
    # What the server had said before is still on its way to the clients, and counts.
    time.sleep(0.3)
    desk.kill()
    history = load.end()
    image.replace(disk)
    return history


def check_the_disk(desk, history, known, since, tmp_path):
    check_files(desk.data, tmp_path / "copy")
    desk.start()
    return check(desk, history, known, since)


def test_a_power_cut_loses_nothing(tmp_path):
    with desk_on_a_disk(tmp_path) as (desk, image):
        known = (openai(desk), digest(desk.keys["OPENAI_API_KEY"]))
        load, count = Load(desk, tmp_path), rounds(3, 20)
        for number in range(1, count + 1):
            since = now()
            history = cut_the_power(desk, image, load, tmp_path)
            known = check_the_disk(desk, history, known, since, tmp_path)
            print(f"power cut, round {number} of {count}: {history}", flush=True)
            assert history.reads and history.acknowledged and history.spent


def must_lose(desk, image, tmp_path, rounds=5):
    known, load = (openai(desk), digest(desk.keys["OPENAI_API_KEY"])), Load(desk, tmp_path)
    for number in range(1, rounds + 1):
        since = now()
        history = cut_the_power(desk, image, load, tmp_path)
        try:
            known = check_the_disk(desk, history, known, since, tmp_path)
        except (AssertionError, sqlite3.DatabaseError) as loss:
            print(f"without waiting for the disk, round {number}: {str(loss).splitlines()[0]}")
            return
    pytest.fail(f"a desk that does not wait for its disk lost nothing in {rounds} power cuts: this test shows nothing")


def test_syncs_that_do_nothing_are_noticed(tmp_path):
    """The same desk on a disk that says "synced" and has not."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    with desk_on_a_disk(tmp_path) as (desk, image):
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", "-P", desk.data / "keydesk.db-wal", "-e", "trace=fdatasync,fsync",
             "-e", "inject=fdatasync,fsync:retval=0", "-p", str(desk.process.pid)], stderr=subprocess.PIPE)
        try:
            if b"attached" not in tracer.stderr.readline():
                pytest.skip("tracing is not permitted here")
            must_lose(desk, image, tmp_path, rounds=1)
        finally:
            desk.kill()
            tracer.wait(20)


@pytest.mark.skipif(not FULL, reason="builds a second keydesk: in the full form")
def test_synchronous_normal_is_noticed(tmp_path):
    """A desk built from the same source with one word changed."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is needed to build the desk that loses")
    with desk_on_a_disk(tmp_path, binary=mutant()) as (desk, image):
        must_lose(desk, image, tmp_path)


def mutant():
    """keydesk with `synchronous=NORMAL`, in a place of its own; compiled dependencies are taken from the real build."""
    source, target = WORK / "mutant", WORK / "mutant-target"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("src", "migrations", "openapi", "Cargo.toml", "Cargo.lock", "tests/vectors", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name)
    line = source / "src/store/db.rs"
    text = line.read_text()
    assert text.count("SqliteSynchronous::Full") == 1
    line.write_text(text.replace("SqliteSynchronous::Full", "SqliteSynchronous::Normal"))
    real = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    if real.is_dir() and not target.exists():
        target.mkdir()
        # Hard links: the real one is never written through them, because rustc replaces files.
        subprocess.run(["cp", "-al", real, target / "debug"], check=True)
        for name in ("keydesk", "keydesk.d"):
            (target / "debug" / name).unlink(missing_ok=True)
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--bin", "keydesk", "--target-dir", target], cwd=source, check=True)
    return target / "debug/keydesk"
