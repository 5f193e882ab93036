"""What a running server leaves lying around in its own process: nothing that was ever secret."""

import base64
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BINARY

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="reads another process's memory, or becomes another user")


@pytest.fixture(scope="module")
def used(new_desk):
    """A server that has imported keys and handed them out, and every secret that took part."""
    password = f"a phrase of nobody {secrets.token_hex(8)}"
    desk = new_desk(KEYDESK_ADMIN_PASSWORD=password).start()
    token = desk.login(password=password)
    assert desk.get("/llm-keys", headers={"Authorization": f"Bearer {token}"}).json() == desk.expected_keys()
    assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).json() == desk.expected_keys()
    kek = (desk.data / "kek").read_text().strip()
    known = {name: value.encode() for name, value in desk.keys.items()} | {
        "admin's password": password.encode(),
        "SERVICE_API_KEY": desk.service_api_key.encode(),
        "KEK in base64": kek.encode(),
        "KEK": base64.b64decode(kek),
    }
    yield desk, known
    desk.stop()


def test_the_environment_and_the_arguments_hold_no_secret(used):
    desk, known = used
    process = pathlib.Path("/proc", str(desk.process.pid))
    for task in (process / "task").iterdir():
        for place in (task / "environ", task / "cmdline"):
            content = place.read_bytes()
            assert not [name for name, secret in known.items() if secret in content], place
    assert b"HOME=" in (process / "environ").read_bytes(), "what is not ours stays"
    assert (process / "comm").read_text() == "keydesk\n"


def memory(pid):
    """What a process has in memory, as far as it is its own."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, rights, *_, place = (line.split() + [""])[:6]
            if rights.startswith("rw") and "[v" not in place:
                start, end = (int(address, 16) for address in span.split("-"))
                mem.seek(start)
                yield mem.read(end - start)


@ROOT_ONLY
def test_memory_holds_no_secret_that_is_not_being_used(used):
    """Keys that were read stay open for a minute, or until anything that decides access changes."""
    desk, known = used
    desk.cli("project", "add", "another")
    time.sleep(1)
    for _ in range(50):  # other requests take the buffers
        desk.get("/health")
    found = {name for part in memory(desk.process.pid) for name, secret in known.items() if secret in part}
    assert not found


@ROOT_ONLY
def test_another_process_of_the_same_user_cannot_look_into_it(tmp_path):
    nobody = 65534
    home = tmp_path / "home"
    home.mkdir()
    # Where any user may go: the directories of the tests are the tester's alone.
    for folder in (home, *(parent for parent in home.parents if parent != parent.parent)):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    shutil.chown(home, nobody, nobody)
    binary = shutil.copy(BINARY, tmp_path / "keydesk")
    binary.chmod(0o755)
    server = subprocess.Popen(
        [binary, "serve", "--listen", "127.0.0.1:0"], cwd=home, user=nobody, group=nobody, extra_groups=[],
        env={"HOME": str(home), "KEYDESK_ADMIN_PASSWORD": f"words {secrets.token_hex(12)}"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        for line in server.stdout:
            if b"http://127.0.0.1:" in line:
                break
        for place in ("mem", "environ"):
            done = subprocess.run(
                ["head", "-c", "1", f"/proc/{server.pid}/{place}"], cwd="/", user=nobody, group=nobody, extra_groups=[],
                capture_output=True, text=True,
            )
            assert "Permission denied" in done.stderr, done
    finally:
        server.kill()
        server.wait()


def test_a_crash_leaves_no_core(new_desk):
    desk = new_desk()
    # As if the operator had allowed cores of any size, in a shell of its own.
    desk.prefix = ["sh", "-c", 'ulimit -S -c "$(ulimit -H -c)" && exec "$0" "$@"']
    desk.start()
    limits = pathlib.Path(f"/proc/{desk.process.pid}/limits").read_text()
    assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")) == ["0", "0"]
    desk.process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(desk.process.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT and not os.WCOREDUMP(status)
    assert not list(desk.home.rglob("core*"))
    desk.process.returncode = -signal.SIGABRT
