"""`keydesk login` and `logout`, and the profiles that they keep: what is said once holds, and nothing else gets lost."""

import json
import os
import pty
import select
import secrets
import termios
import time

import pytest

from conftest import PASSWORD, free_port
from person import Person
from test_edge_tls import Pair, TlsDesk


@pytest.fixture
def person(desk):
    return Person(desk, desk.home / f"person-{secrets.token_hex(4)}")


def profiles(person):
    return person.home / ".config" / "keydesk" / "profiles.toml"


def test_the_environment_counts_for_logging_in_and_out(new_desk):
    tls = TlsDesk(new_desk).start()
    person = Person(tls.desk, tls.desk.home / "person")
    person.home.joinpath("ca.pem").write_bytes(open(tls.ca, "rb").read())
    log_in = ("login", tls.url, "--username", "admin", "--password-stdin")
    done = person.run(*log_in, stdin=PASSWORD)
    assert done.returncode == 1 and "KEYDESK_CA_FILE" in done.stderr, done
    # Advice that was followed already is not given again.
    other, _ = Pair("another authority", ca=True).write(tls.folder, "other")
    done = person.run(*log_in, stdin=PASSWORD, env={"KEYDESK_CA_FILE": other})
    assert done.returncode == 1 and f"not of an authority in {other}" in done.stderr and "name that one" not in done.stderr, done
    another_name = f"https://[::ffff:127.0.0.1]:{tls.desk.port}"
    done = person.run("login", another_name, "--profile", "x", *log_in[2:], stdin=PASSWORD, env={"KEYDESK_CA_FILE": tls.ca})
    assert done.returncode == 1 and "not valid for name" in done.stderr and "authority" not in done.stderr, done
    env = {"KEYDESK_CA_FILE": "ca.pem", "KEYDESK_PROJECT": "default", "KEYDESK_PROFILE": "named"}
    assert person.must(*log_in, stdin=PASSWORD, env=env).startswith("profile named: ")
    text = profiles(person).read_text()
    assert f'ca_file = "{person.home}/ca.pem"' in text and 'project = "default"' in text
    assert person.must("get", "openai", "--raw") == tls.desk.keys["OPENAI_API_KEY"]
    profiles(person).write_text(text.replace("ca_file", "# ca_file"))
    assert "logged out" in person.must("logout", env={"KEYDESK_CA_FILE": "ca.pem"})
    assert tls.desk.stop() == 0


def test_six_at_once_are_six_profiles(desk, person):
    crowd = [person.start("login", desk.url, "--username", "admin", "--password-stdin", "--profile", f"p{n}") for n in range(6)]
    for process in crowd:
        process.stdin.write(PASSWORD)
        process.stdin.close()
    for process in crowd:
        assert process.wait(timeout=120) == 0, process.stderr.read()
        process.stdin = None
        process.communicate()
    assert [row["profile"] for row in json.loads(person.must("status", "--json"))] == [f"p{n}" for n in range(6)]


def test_logging_in_again_keeps_what_is_not_said(desk, person):
    person.log_in("admin", PASSWORD, None, "--profile", "work", "--project", "default", "--offline", "12h", "--insecure")
    before = profiles(person).read_text()
    person.must("login", desk.url, "--profile", "work", "--password-stdin", stdin=PASSWORD)
    assert profiles(person).read_text() == before
    person.must("login", desk.url, "--profile", "work", "--password-stdin", "--offline", "1h", stdin=PASSWORD)
    assert profiles(person).read_text() == before.replace("12h", "1h")


def test_a_linked_file_stays_linked(desk, person):
    elsewhere = person.home / "dotfiles" / "profiles.toml"
    elsewhere.parent.mkdir()
    profiles(person).parent.mkdir(parents=True)
    profiles(person).symlink_to(elsewhere)
    for name in ("one", "two"):
        person.log_in("admin", PASSWORD, None, "--profile", name)
        assert profiles(person).is_symlink() and f"[profiles.{name}]" in elsewhere.read_text()


def at_terminal(person, *arguments, typed=""):
    """What a command that is run at a terminal shows there; `typed` once it asks."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(person.home)
        os.execve(person.desk.binary, ["keydesk", *arguments], person.env)
    seen = ""
    deadline = time.monotonic() + 20
    try:
        while True:
            assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen += os.read(terminal, 4096).decode()
            if typed and seen.rstrip().endswith(":"):
                while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.write(terminal, typed.encode())
                typed = ""
    except OSError:
        pass  # Nobody has the other end any more.
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen


def test_a_password_that_is_typed_is_not_shown(desk, person):
    code, seen = at_terminal(person, "login", desk.url, "--username", "admin", "--password-stdin", typed=PASSWORD + "\n")
    assert code == 0 and "Password of admin" in seen and PASSWORD not in seen, seen


def test_what_cannot_be_is_refused_before_anything_is_asked(desk, person):
    person.log_in("admin", PASSWORD)
    for url, why in ((f"http://127.0.0.1:{free_port()}", "choose another name"), ("http://192.0.2.1", "is http:// and names another")):
        code, seen = at_terminal(person, "login", url)
        assert code == 1 and why in seen and "name:" not in seen and "assword" not in seen, seen


def test_a_file_that_others_may_read_is_told(desk, person):
    made = desk.cli_json("service-account", "add", f"ci-{secrets.token_hex(4)}", "--project", "default")
    file = person.home / "sa.json"
    file.write_text(json.dumps(made))
    told = f"keydesk: others may read the credential in {file}; run: chmod go= '{file}'\n"
    person.must("login", desk.url, "--profile", "ci", "--service-account-file", "sa.json")
    secret = person.home / "secret"
    secret.write_text(made["client_secret"])
    variables = {"KEYDESK_URL": desk.url, "KEYDESK_CLIENT_ID": made["client_id"], "KEYDESK_CLIENT_SECRET_FILE": str(secret)}
    for env, path, mode in (({}, file, 0o644), ({}, file, 0o640), (variables, secret, 0o644)):
        path.chmod(mode)
        done = person.run("get", "openai", "--raw", env=env)
        assert (done.returncode, done.stdout) == (0, desk.keys["OPENAI_API_KEY"]), done
        assert done.stderr == told.replace(str(file), str(path)), done
        assert f"chmod go= '{path}'" in person.run("doctor", env=env).stdout
        path.chmod(0o600)
        assert person.run("get", "openai", env=env).stderr == ""
        assert "chmod" not in person.run("doctor", env=env).stdout


def test_logging_a_service_account_out(desk, person):
    made = desk.cli_json("service-account", "add", f"ci-{secrets.token_hex(4)}", "--project", "default")
    file = person.home / "sa.json"
    file.touch(0o600)
    file.write_text(json.dumps(made))
    person.must("login", desk.url, "--profile", "ci", "--service-account-file", str(file))
    person.log_in("admin", PASSWORD, None, "--profile", "work")
    assert "keydesk logout --profile ci --forget" in person.must("logout", "--profile", "ci")
    assert person.must("logout", "--profile", "ci", "--forget") == "profile ci: forgotten\n"
    row, = json.loads(person.must("status", "--json"))
    assert row["profile"] == "work"
    done = person.run("get", "openai")
    assert done.returncode == 3 and "keydesk use NAME; there are: work" in done.stderr, done
    person.must("use", "work")
    assert person.must("get", "openai", "--raw") == desk.keys["OPENAI_API_KEY"]
