"""`keydesk env`: what is printed is read back as it was, by the programs it is printed for."""

import json
import os
import pty
import secrets
import shutil
import subprocess

import dotenv
import pytest

from conftest import BINARY, WORK

AWKWARD = {
    "openai": "sk-$HOME-`id`-\"quoted\"-#no-comment-%41",
    "anthropic": "sk-it's-$1-\\n-\\\\-!history-&|;<>*?[]()",
    "groq": "sk-~-{a,b}-^-%d-$-\\-",
}


@pytest.fixture(scope="module")
def client(desk):
    return {**desk.plain_env, "KEYDESK_URL": desk.url, "KEYDESK_API_KEY": desk.service_api_key}


@pytest.fixture(scope="module")
def awkward(new_desk):
    """A desk whose keys need every kind of quotes, and what they are by variable."""
    desk = new_desk().start()
    values = {}
    for provider, start in AWKWARD.items():
        key = start + secrets.token_hex(8)
        desk.cli("key", "set", provider, stdin=key + "\n")
        values[f"{provider.upper()}_API_KEY"] = key
    env = {**desk.plain_env, "KEYDESK_URL": desk.url, "KEYDESK_API_KEY": desk.service_api_key}
    yield env, {**desk.keys, **values}
    desk.stop()


def env(client, *arguments):
    return subprocess.run([BINARY, "env", *arguments], env=client, capture_output=True, text=True, timeout=60)


def printed(client, *arguments):
    done = env(client, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "busybox sh", "zsh"])
@pytest.mark.parametrize("way", ['eval "$(%s env)"', "%s env > keys; . ./keys"])
def test_shells_read_every_key_as_it_is(awkward, tmp_path, shell, way):
    client, keys = awkward
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed")
    command = [*shell.split(), "-c", f"{way % BINARY}; env -0"]
    done = subprocess.run(command, env=client, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    got = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    assert {name: got.get(name) for name in keys} == keys, done.stderr


def test_python_dotenv_reads_every_key_as_it_is(awkward, tmp_path):
    client, keys = awkward
    (tmp_path / ".env").write_text(printed(client, "--format", "dotenv"))
    assert dict(dotenv.dotenv_values(tmp_path / ".env")) == keys


@pytest.mark.parametrize("reader", ["dotenv", "--env-file"])
def test_node_reads_every_key_as_it_is(awkward, tmp_path, reader):
    client, keys = awkward
    (tmp_path / ".env").write_text(printed(client, "--format", "dotenv"))
    script = "require('dotenv').config({quiet: true}); " if reader == "dotenv" else ""
    flags = [] if reader == "dotenv" else ["--env-file", str(tmp_path / ".env")]
    if reader == "dotenv" and not (WORK / "node" / "node_modules" / "dotenv").exists():
        pytest.skip("the node package dotenv is not installed")
    plain = {"PATH": os.environ["PATH"], "NODE_PATH": str(WORK / "node" / "node_modules")}
    done = subprocess.run(["node", *flags, "-e", script + "console.log(JSON.stringify(process.env))"],
                          env=plain, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    got = json.loads(done.stdout)
    assert {name: got.get(name) for name in keys} == keys, done.stderr


def test_a_real_key_is_bare_in_a_dotenv_file(desk, client):
    """`docker run --env-file` takes quotes as part of the value."""
    lines = dict(entry.split("=", 1) for entry in printed(client, "--format", "dotenv").splitlines())
    assert lines == desk.keys


def test_json(awkward):
    client, keys = awkward
    assert json.loads(printed(client, "--format", "json")) == keys == json.loads(printed(client, "--json"))


def test_only_some(desk, client):
    assert json.loads(printed(client, "--only", "openai", "--json")) == {"OPENAI_API_KEY": desk.keys["OPENAI_API_KEY"]}
    refused = env(client, "--only", "groq")
    assert (refused.returncode, refused.stdout) == (4, "") and "groq" in refused.stderr


def test_the_next_steps_of_a_workflow_get_them_and_its_log_does_not(awkward, tmp_path):
    client, keys = awkward
    file = tmp_path / "github_env"
    file.write_text("BEFORE=1\n")
    masks = printed({**client, "GITHUB_ENV": str(file)}, "--format", "github").splitlines()
    assert [mask.removeprefix("::add-mask::").replace("%25", "%") for mask in masks] == [keys[name] for name in sorted(keys)]
    lines = file.read_text().splitlines()
    assert lines.pop(0) == "BEFORE=1"
    got, delimiters = {}, set()
    while lines:
        name, delimiter = lines.pop(0).split("<<")
        got[name] = lines.pop(0)
        assert lines.pop(0) == delimiter
        delimiters.add(delimiter)
    assert got == keys and all(len(delimiter) > 30 for delimiter in delimiters)

    elsewhere = env(client, "--format", "github")
    assert (elsewhere.returncode, elsewhere.stdout) == (1, "") and "GITHUB_ENV" in elsewhere.stderr


def test_a_terminal_shows_no_key_unless_asked(desk, client):
    def at_terminal(*arguments):
        ours, theirs = pty.openpty()
        done = subprocess.run([BINARY, "env", *arguments], env=client, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60)
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass
        os.close(ours)
        return done.returncode, shown.decode(), done.stderr

    for format in ("shell", "dotenv", "json", "github"):
        code, shown, told = at_terminal("--format", format)
        assert (code, shown) == (2, "") and "--show" in told
    code, shown, _ = at_terminal("--show")
    assert code == 0 and desk.keys["OPENAI_API_KEY"] in shown


def test_no_key_comes_where_it_is_not_granted(client):
    assert env(client, "--project", "nowhere").returncode == 4
    assert env({**client, "KEYDESK_API_KEY": "kd_ak_nonsense"}).returncode == 3
    assert env({**client, "KEYDESK_URL": "http://127.0.0.1:9"}).returncode == 5
