"""`keydesk login`, `get` and their like, as people and tools use them: sessions that survive what happens to them, and
files that are worth nothing elsewhere."""

import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import rounds
from person import Between, Person

AT_ONCE = 50


@pytest.fixture
def user(desk):
    name, password = f"u-{secrets.token_hex(4)}", f"{secrets.token_hex(10)} is the word"
    desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password + "\n")
    return name, password


@pytest.fixture
def person(desk):
    return Person(desk, desk.home / f"person-{secrets.token_hex(4)}")


@pytest.fixture
def between(desk):
    forwarder = Between(desk.url)
    yield forwarder
    forwarder.close()


def token_requests(desk, name):
    """What the book says of tokens that a principal has asked for, oldest first."""
    events = desk.cli_json("audit", "list", "--principal", name, "--limit", "1000")
    return [event for event in reversed(events) if event["action"] in ("token.issue", "token.refresh", "refresh_token.reuse")]


def files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def test_log_in_get_log_out(desk, person, user):
    said = person.log_in(*user, None, "--profile", "work", "--project", "default")
    assert said == f"profile work: {user[0]} at {desk.url}; the session is in a file that opens on this machine only\n"
    key = desk.keys["OPENAI_API_KEY"]
    done = person.run("get", "openai")
    assert (done.returncode, done.stdout, done.stderr) == (0, key + "\n", "")
    assert person.must("get", "openai", "--raw") == key
    one = json.loads(person.must("get", "openai", "--json"))
    assert (one["key"], one["env"], one["project"]) == (key, "OPENAI_API_KEY", "default")
    assert person.must("whoami").startswith(f"{user[0]}, user and member, at {desk.url}; may fetch: default")
    row, = json.loads(person.must("status", "--json"))
    assert (row["profile"], row["default"], row["session"]) == ("work", True, "in a sealed file")
    assert person.must("logout") == f"profile work: logged out at {desk.url}\n"
    assert person.run("get", "openai").returncode == 3
    assert [path.name for path in files(person.state) if path.suffix == ".session"] == []
    assert [event["outcome"] for event in token_requests(desk, user[0])] == ["allowed"]
    revoked = desk.cli_json("audit", "list", "--action", "token.revoke", "--limit", "1")
    assert revoked[0]["object"].startswith("session:"), revoked


def test_files_are_private_and_hold_nothing_readable(desk, person, user):
    person.log_in(*user)
    person.must("get", "openai")
    kept = files(person.home / ".config") + files(person.state)
    assert len(kept) >= 4
    for path in kept:
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert path.parent.stat().st_mode & 0o777 == 0o700, path
        assert not any(word in path.read_bytes() for word in (b"kd_rt_", b"eyJ", user[1].encode())), path


def test_many_at_once_cause_one_token_request(desk, person, user, between):
    between.short_lived = True
    person.log_in(*user, between.url)
    between.short_lived = False
    crowd = [person.start("get", "openai", "--raw") for _ in range(AT_ONCE)]
    done = [(process.communicate(timeout=120), process.returncode) for process in crowd]
    assert done == [((desk.keys["OPENAI_API_KEY"], ""), 0)] * AT_ONCE
    assert [event["outcome"] for event in token_requests(desk, user[0])] == ["allowed"] * 2, "a login and one refresh"


def test_many_with_a_client_secret_cause_one_token_request(desk, person):
    account = f"ci-{secrets.token_hex(4)}"
    made = desk.cli_json("service-account", "add", account, "--project", "default")
    env = {"KEYDESK_URL": desk.url, "KEYDESK_CLIENT_ID": account, "KEYDESK_CLIENT_SECRET": made["client_secret"]}
    crowd = [person.start("get", "openai", "--raw", env=env) for _ in range(AT_ONCE)]
    done = [(process.communicate(timeout=120), process.returncode) for process in crowd]
    assert done == [((desk.keys["OPENAI_API_KEY"], ""), 0)] * AT_ONCE
    assert len(token_requests(desk, account)) == 1
    # Where nothing can be kept, a token is asked for each time, and the key is there all the same.
    env["HOME"] = "/proc/nowhere"
    assert person.must("get", "openai", "--raw", env=env) == desk.keys["OPENAI_API_KEY"]
    assert len(token_requests(desk, account)) == 2


def test_an_answer_that_gets_lost_is_asked_for_again(desk, person, user, between):
    between.short_lived = True
    person.log_in(*user, between.url)
    lost = []
    between.lose = lambda answer: len(lost) == 0 and not lost.append(answer)
    done = person.run("get", "openai", "--raw")
    assert (done.returncode, done.stdout, done.stderr) == (0, desk.keys["OPENAI_API_KEY"], "")
    assert len(lost) == 1
    assert person.must("get", "openai", "--raw") == desk.keys["OPENAI_API_KEY"]
    assert "refresh_token.reuse" not in {event["action"] for event in token_requests(desk, user[0])}


def test_killed_between_the_answer_and_the_file(desk, person, user, between):
    """The desk has spent the refresh token, and nobody has its successor."""
    between.short_lived = True
    person.log_in(*user, between.url)
    for _ in range(rounds(5, 50)):
        victim = []
        between.lose = lambda _: bool(victim) and not victim.pop().send_signal(signal.SIGKILL)
        process = person.start("get", "openai", "--raw")
        victim.append(process)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (-signal.SIGKILL, ""), "it was killed before it knew"
        assert person.must("get", "openai", "--raw") == desk.keys["OPENAI_API_KEY"]
    assert "refresh_token.reuse" not in {event["action"] for event in token_requests(desk, user[0])}


def test_no_token_is_spent_where_its_successor_cannot_be_kept(desk, person, user, between):
    between.short_lived = True
    person.log_in(*user, between.url)
    full = ["sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$0" "$@"']  # the disk takes not a byte
    done = person.run("get", "openai", prefix=full)
    assert (done.returncode, done.stdout) == (1, "") and "the desk was not asked" in done.stderr, done
    assert len(token_requests(desk, user[0])) == 1, "the login's"
    assert person.must("get", "openai", "--raw") == desk.keys["OPENAI_API_KEY"]
    assert [path.name for path in files(person.state) if path.suffix == ".room"] == []


def test_killed_at_any_moment(desk, person, user, between):
    between.short_lived = True
    person.log_in(*user, between.url)
    for turn in range(rounds(20, 300)):
        process = person.start("get", "openai", "--raw")
        time.sleep(0.004 * (turn % 25))
        process.kill()
        process.communicate(timeout=60)
        assert person.must("get", "openai", "--raw") == desk.keys["OPENAI_API_KEY"]
    assert "refresh_token.reuse" not in {event["action"] for event in token_requests(desk, user[0])}
    left = [path.name for path in files(person.state) if path.suffix in (".tmp", ".room")]
    assert len(left) <= 1, left


def elsewhere(tmp_path):
    """What makes a process run on what looks like another machine; nothing where that is not allowed here."""
    script = "hostname elsewhere"
    if pathlib.Path("/etc/machine-id").exists():
        other = tmp_path / "machine-id"
        other.write_text(secrets.token_hex(16) + "\n")
        script = f"mount --bind {other} /etc/machine-id"
    prefix = ["unshare", "--mount", "--uts", "--", "sh", "-c", f'{script} && exec "$0" "$@"']
    tried = subprocess.run([*prefix, "true"], capture_output=True)
    return prefix if tried.returncode == 0 else None


def test_a_copy_opens_nothing_on_another_machine(desk, person, user, tmp_path):
    prefix = elsewhere(tmp_path)
    if not prefix:
        pytest.skip("another machine cannot be made up here: unshare and mount need root")
    person.log_in(*user, None, "--offline", "1d")
    person.must("get", "openai")
    thief = Person(desk, desk.home / f"thief-{secrets.token_hex(4)}")
    shutil.copytree(person.home, thief.home, dirs_exist_ok=True)
    assert thief.must("get", "openai"), "on this machine it is the same user's"
    for arguments in (["get", "openai"], ["whoami"]):
        done = thief.run(*arguments, prefix=prefix)
        assert (done.returncode, done.stdout) == (3, "") and "another machine" in done.stderr, done
    assert "of another machine or user" in thief.must("status", prefix=prefix)
    # Not even with the desk away: the copy for that is sealed, too.
    away = thief.home / ".config" / "keydesk" / "profiles.toml"
    away.write_text(away.read_text().replace(desk.url, "http://127.0.0.1:9"))
    done = thief.run("get", "openai", prefix=prefix)
    assert done.stdout == "" and done.returncode == 3, done


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_copy_opens_nothing_for_another_user(desk, person, user, tmp_path_factory):
    person.log_in(*user)
    home = tmp_path_factory.mktemp("other")
    thief = Person(desk, home / "home")
    shutil.copytree(person.home, thief.home, dirs_exist_ok=True)
    for path in [thief.home, *thief.home.rglob("*")]:
        os.chown(path, 65534, 65534)
    # Directories above may be closed to others: their owner goes in first and only then becomes somebody else.
    becomes = "import os, sys; d = os.open(sys.argv[1], os.O_RDONLY); os.setgid(65534); os.setuid(65534); os.execve(d, sys.argv[1:], os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", becomes, desk.binary, "get", "openai"], env={**thief.env, "HOME": "."}, cwd=thief.home,
        capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "") and "another user" in done.stderr, done


@pytest.fixture
def keyring(tmp_path):
    """What runs a command in a session that has an unlocked keyring."""
    if not all(map(shutil.which, ("gnome-keyring-daemon", "dbus-run-session"))):
        pytest.skip("there is no gnome-keyring here")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    return runtime


def in_session(person, runtime, script):
    """Runs a script in a session of the bus, with `K` as the program and `unlock` to begin with."""
    text = f"""set -e
        unlock() {{ printf %s secret-of-the-keyring | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1; sleep 0.5; }}
        K={person.desk.binary}
        {script}"""
    env = {**person.env, "XDG_RUNTIME_DIR": str(runtime)}
    return subprocess.run(
        ["dbus-run-session", "--", "bash", "-c", text], env=env, cwd=person.home, capture_output=True, text=True, timeout=120)


def test_the_session_is_in_the_keyring(desk, person, user, keyring, between):
    between.short_lived = True
    name, password = user
    done = in_session(person, keyring, f"""
        unlock
        printf %s '{password}' | $K login {between.url} --username {name} --password-stdin
        $K status --json
        $K get openai --raw; echo
        $K get openai --raw; echo
        """)
    assert done.returncode == 0, done
    assert "the session is in the keyring" in done.stdout and '"session": "in the keyring"' in done.stdout, done
    assert done.stdout.count(desk.keys["OPENAI_API_KEY"]) == 2, done
    assert len(token_requests(desk, name)) == 3, "a login, and a refresh for each key"
    # The keyring is gone: what is on the disk is not the session.
    done = person.run("get", "openai")
    assert (done.returncode, done.stdout) == (3, "") and "keyring" in done.stderr, done
    # It is there again and locked: nobody is asked, nothing waits.
    done = in_session(person, keyring, "gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1; $K get openai")
    assert done.returncode == 3 and "locked" in done.stderr, done
    done = in_session(person, keyring, "unlock; $K get openai && $K logout && ! $K get openai")
    assert done.returncode == 0 and "logged out" in done.stdout, done
    assert "refresh_token.reuse" not in {event["action"] for event in token_requests(desk, name)}


def test_without_a_keyring_a_bus_changes_nothing(desk, person, user, keyring):
    """There is a bus, and nobody on it who keeps secrets: nothing is started and nothing is waited for."""
    name, password = user
    done = in_session(person, keyring, f"printf %s '{password}' | $K login {desk.url} --username {name} --password-stdin; $K get openai")
    assert done.returncode == 0 and "in a file that opens on this machine only" in done.stdout, done
    broken = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere/bus"}
    assert person.log_in(name, password, env=broken)
