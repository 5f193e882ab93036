"""`keydesk run`: a command gets its keys, and is seen from outside as if nothing stood around it."""

import base64
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from conftest import BINARY, eventually
from terminal import open_terminal  # noqa: F401

# A program that says what happens to it.
TELLER = """
import os, signal, sys, time
def tell(number, frame):
    os.write(1, f"got {signal.Signals(number).name}\\n".encode())
    if number == signal.SIGTERM: os._exit(9)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), tell)
print("ready", flush=True)
while True: time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def client(desk):
    """The environment of somebody who may fetch the desk's keys."""
    return {**desk.plain_env, "KEYDESK_URL": desk.url, "KEYDESK_API_KEY": desk.service_api_key}


@pytest.fixture(params=["exec", "--mask", "--watch"])
def manner(request):
    """In place of us; below us, through pipes; below us, with our own streams."""
    return [] if request.param == "exec" else [request.param]


def run(client, *arguments, **options):
    return subprocess.run([BINARY, "run", *arguments], env=client, capture_output=True, text=True, timeout=60, **options)


def begin(client, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True, **options}
    return subprocess.Popen([BINARY, "run", *arguments], env=client, **options)


def line(stream, expected):
    told = stream.readline()
    assert told == expected + "\n"


# What the command gets.


def test_the_conventional_variables_are_set_and_all_else_stays(desk, client, manner):
    done = run({**client, "MINE": "stays", "OPENAI_API_KEY": "from the shell"}, *manner, "--", "env", "-0")
    assert done.returncode == 0, done.stderr
    got = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    keys = desk.keys
    if "--mask" in manner:
        keys = {name: f"[{name.removesuffix('_API_KEY').lower()} key]" for name in keys}
    assert {name: got[name] for name in keys} == keys
    assert got["MINE"] == "stays" and got["PATH"] == client["PATH"]


def test_only_some(desk, client):
    done = run(client, "--only", "openai,gemini", "--", "env")
    got = {entry.split("=")[0] for entry in done.stdout.splitlines()}
    assert {name for name in desk.keys if name in got} == {"OPENAI_API_KEY", "GEMINI_API_KEY"}


def test_what_is_ours_is_not_the_commands(desk, client, manner):
    """Neither our credential, which opens more than was asked for, nor our limits."""
    done = run(client, *manner, "--only", "openai", "--", "sh", "-c", "ulimit -Sc; ulimit -Hc; env")
    limits = subprocess.run(["sh", "-c", "ulimit -Sc; ulimit -Hc"], capture_output=True, text=True).stdout
    assert done.stdout.startswith(limits) and "KEYDESK_URL=" in done.stdout
    assert "KEYDESK_API_KEY" not in done.stdout and desk.service_api_key not in done.stdout


def test_the_book_names_only_what_was_asked_for(desk, client):
    run(client, "--only", "openai", "--", "true")
    newest = desk.cli_json("audit", "list", "--limit", "1", "--action", "llm_keys.read")[0]
    assert (newest["object"], newest["version"]) == ("provider_key:default/openai", "openai=1")


@pytest.mark.parametrize("only", ["groq", "openai,groq", "Open AI", ""])
def test_an_unknown_provider_is_an_error_before_anything_starts(client, tmp_path, only):
    done = run(client, "--only", only, "--", "touch", str(tmp_path / "started"))
    assert done.returncode == 125 and done.stderr and not (tmp_path / "started").exists()


def test_another_variable_of_the_same_provider_is_told(client):
    done = run({**client, "GOOGLE_API_KEY": "something"}, "--", "true")
    assert "GOOGLE_API_KEY is set here, too, and some programs prefer it to GEMINI_API_KEY" in done.stderr
    assert "something" not in done.stderr


# How it ends.


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_commands(client, manner, code):
    assert run(client, *manner, "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGSEGV", "SIGPIPE", "SIGUSR1"])
def test_a_command_that_dies_of_a_signal_takes_us_along(client, manner, name):
    number = getattr(signal, name)
    assert run(client, *manner, "--", "sh", "-c", f"kill -{number.value} $$").returncode == -number


def test_our_own_failures_are_told_from_the_commands(desk, client, manner, tmp_path):
    assert run(client, *manner, "--", "no-such-command").returncode == 127
    (tmp_path / "text").write_text("no program")
    done = run(client, *manner, "--", str(tmp_path / "text"))
    assert done.returncode == 126 and str(tmp_path / "text") in done.stderr
    for arguments in (["--no-such-option", "--", "true"], [], ["--"], ["--interval", "1ms", "--", "true"]):
        assert run(client, *manner, *arguments).returncode == 125
    away = run({**client, "KEYDESK_URL": "http://127.0.0.1:9"}, *manner, "--", "true")
    assert away.returncode == 125 and away.stderr.startswith("keydesk: ")
    stranger = run({**client, "KEYDESK_API_KEY": desk.service_api_key[:-1] + "x"}, *manner, "--", "true")
    assert stranger.returncode == 125
    assert run(client, "--help").returncode == 0


# Signals, without a terminal.


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_passed_on_once(client, manner, name):
    process = begin(client, *manner, "--", sys.executable, "-c", TELLER, name, "SIGTERM", start_new_session=True)
    line(process.stdout, "ready")
    process.send_signal(getattr(signal, name))
    line(process.stdout, f"got {name}")
    if name != "SIGTERM":
        process.terminate()
    rest, _ = process.communicate(timeout=30)
    assert (rest, process.returncode) == ("" if name == "SIGTERM" else "got SIGTERM\n", 9)


@pytest.mark.parametrize("watch", ["--mask", "--watch"])
def test_what_we_were_started_to_ignore_the_command_ignores(client, watch):
    process = begin(client, watch, "--", sys.executable, "-c", TELLER, "SIGTERM",
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN), start_new_session=True)
    line(process.stdout, "ready")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    process.terminate()
    line(process.stdout, "got SIGTERM")
    assert process.wait(30) == 9


# What the mask lets through.


def test_no_key_is_seen_in_either_stream_and_they_stay_apart(desk, client):
    script = 'echo "out $OPENAI_API_KEY."; echo "err $ANTHROPIC_API_KEY." >&2'
    done = run(client, "--mask", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("out [openai key].\n", "err [anthropic key].\n")


def test_a_key_that_comes_in_pieces_is_masked(desk, client):
    script = 'import os, sys, time\nfor c in os.environ["OPENAI_API_KEY"]: print(c, end="", flush=True); time.sleep(0.02)'
    done = run(client, "--mask", "--", sys.executable, "-c", script)
    shown = done.stdout.removesuffix("[openai key]")
    assert len(shown) <= 8 and desk.keys["OPENAI_API_KEY"].startswith(shown), done.stdout


def test_a_key_is_masked_as_others_write_it(desk, client):
    key = desk.keys["OPENAI_API_KEY"]
    written = base64.b64encode(f"user:{key}".encode()).decode()
    done = run(client, "--mask", "--", "echo", written)
    assert "[openai key]" in done.stdout and len(done.stdout) < 40, done.stdout


def test_binary_output_passes_untouched(client):
    done = subprocess.run([BINARY, "run", "--mask", "--", "head", "-c", "5000000", "/dev/urandom"], env=client, capture_output=True, timeout=60)
    assert len(done.stdout) == 5_000_000 and done.returncode == 0
    zeros = subprocess.run([BINARY, "run", "--mask", "--", "head", "-c", "5000000", "/dev/zero"], env=client, capture_output=True, timeout=60)
    assert zeros.stdout == bytes(5_000_000)


def test_a_prompt_is_shown_before_its_line_ends(client):
    script = 'printf "name for sk"; read name; echo "hello $name"'
    process = begin(client, "--mask", "--", "sh", "-c", script, stdin=subprocess.PIPE)
    shown = os.read(process.stdout.fileno(), 100)
    while shown != b"name for sk":
        assert b"name for sk".startswith(shown)
        shown += os.read(process.stdout.fileno(), 100)
    rest, _ = process.communicate("alice\n", timeout=30)
    assert (rest, process.returncode) == ("hello alice\n", 0)


def test_who_reads_no_further_ends_the_command(client):
    process = begin(client, "--mask", "--", "yes")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == -signal.SIGPIPE


def test_what_goes_on_in_the_background_does_not_hold_us(client):
    done = run(client, "--mask", "--", "sh", "-c", "sleep 20 & echo done")
    assert (done.stdout, done.returncode) == ("done\n", 0)


# Rotation.


WATCHED = 'echo "begun with $OPENAI_API_KEY"; exec sleep 100'


@pytest.fixture
def team(new_desk):
    """A desk of its own, and the account of a machine at it."""
    desk = new_desk().start()
    desk.cli("service-account", "add", "ci", "--project", "default", "--file", "sa.json")
    env = {**desk.plain_env, "KEYDESK_URL": desk.url, "KEYDESK_SERVICE_ACCOUNT_FILE": str(desk.home / "sa.json")}
    yield desk, env
    desk.stop()


def rotate(desk, provider="openai"):
    key = f"sk-proj-CANARY{secrets.token_hex(20)}"
    desk.cli("key", "set", provider, stdin=key + "\n")
    return key


def test_a_rotated_key_starts_the_command_again(team):
    desk, env = team
    process = begin(env, "--watch", "--interval", "1s", "--", "sh", "-c", WATCHED)
    line(process.stdout, f"begun with {desk.keys['OPENAI_API_KEY']}")
    key = rotate(desk)
    line(process.stderr, "keydesk: the openai key has changed: the command is started again")
    line(process.stdout, f"begun with {key}")
    reads = [event for event in desk.cli_json("audit", "list", "--action", "llm_keys.read", "--limit", "100")]
    time.sleep(2.5)
    after = [event for event in desk.cli_json("audit", "list", "--action", "llm_keys.read", "--limit", "100")]
    assert len(after) == len(reads), "asking in vain is not in the book"
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM


def test_masked_and_watched_at_once(team):
    desk, env = team
    script = 'echo "begun with $OPENAI_API_KEY $OLD"; exec sleep 100'
    process = begin({**env, "OLD": desk.keys["OPENAI_API_KEY"]}, "--mask", "--watch", "--interval", "1s", "--", "sh", "-c", script)
    line(process.stdout, "begun with [openai key] [openai key]")
    rotate(desk)
    line(process.stderr, "keydesk: the openai key has changed: the command is started again")
    line(process.stdout, "begun with [openai key] [openai key]")
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM


def test_a_key_that_the_command_does_not_have_does_not_concern_it(team):
    desk, env = team
    process = begin(env, "--watch", "--interval", "1s", "--only", "openai", "--", "sh", "-c", WATCHED)
    line(process.stdout, f"begun with {desk.keys['OPENAI_API_KEY']}")
    rotate(desk, "anthropic")
    time.sleep(2)
    key = rotate(desk)
    line(process.stderr, "keydesk: the openai key has changed: the command is started again")
    line(process.stdout, f"begun with {key}")
    process.terminate()
    process.wait(30)


def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(team):
    desk, env = team
    script = 'trap "" TERM; echo begun; sleep 1000 & sleep 1000; sleep 1000'
    process = begin(env, "--watch", "--interval", "1s", "--grace", "1s", "--", "sh", "-c", script, start_new_session=True)
    line(process.stdout, "begun")
    first = children(process.pid)
    rotate(desk)
    line(process.stderr, "keydesk: the openai key has changed: the command is started again")
    line(process.stderr, "keydesk: the command does not end: it is killed")
    line(process.stdout, "begun")
    assert first and eventually(lambda: not any(is_running(pid) for pid in first), within=10)
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.wait(30)


def children(pid):
    """All processes below this one."""
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        below = [int(child) for child in listed.read().split()]
    return below + [further for child in below for further in children(child)]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_desk_that_is_away_stops_nobody(team):
    desk, env = team
    process = begin(env, "--watch", "--interval", "1s", "--stop-after", "1s", "--", "sh", "-c", WATCHED)
    line(process.stdout, f"begun with {desk.keys['OPENAI_API_KEY']}")
    desk.stop()
    told = process.stderr.readline()
    assert told.startswith("keydesk: ") and told.endswith("; the command goes on with the keys it has\n"), told
    time.sleep(3)
    assert process.poll() is None
    desk.start()
    line(process.stderr, "keydesk: the desk answers again")
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM and process.stderr.read() == ""


@pytest.mark.parametrize("how", [["grant", "remove", "ci", "default"], ["service-account", "disable", "ci"], ["key", "delete", "openai"]])
def test_who_may_not_have_the_keys_any_longer_is_told_and_stopped(team, how):
    desk, env = team
    process = begin(env, "--watch", "--interval", "1s", "--stop-after", "2s", "--", "sh", "-c", WATCHED)
    line(process.stdout, f"begun with {desk.keys['OPENAI_API_KEY']}")
    desk.cli(*how)
    told = process.stderr.readline()
    assert told.endswith("; the command is stopped in 2s unless that is put right\n"), told
    assert process.wait(30) == 125
    assert process.stderr.read().endswith("; the command is stopped\n")


def test_what_is_put_right_in_time_stops_nobody(team):
    desk, env = team
    process = begin(env, "--watch", "--interval", "1s", "--stop-after", "10m", "--", "sh", "-c", WATCHED)
    line(process.stdout, f"begun with {desk.keys['OPENAI_API_KEY']}")
    desk.cli("grant", "remove", "ci", "default")
    assert "unless that is put right" in process.stderr.readline()
    desk.cli("grant", "add", "ci", "default")
    line(process.stderr, "keydesk: the desk hands out the keys again")
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM


# At a terminal.


def at_terminal(open_terminal, client, tmp_path):  # noqa: F811
    (tmp_path / "teller.py").write_text(TELLER)
    return open_terminal(client, tmp_path)


@pytest.mark.parametrize("watch", ["", "--mask", "--watch", "--mask --watch"])
def test_ctrl_c_reaches_the_command_once(open_terminal, client, tmp_path, watch):  # noqa: F811
    terminal = at_terminal(open_terminal, client, tmp_path)
    terminal.type(f"{BINARY} run {watch} -- {sys.executable} teller.py SIGINT SIGQUIT SIGTERM; echo ended with $?")
    terminal.until("ready")
    terminal.press("C-c")
    terminal.until("^Cgot SIGINT")
    terminal.press("C-\\")
    terminal.until("^\\got SIGQUIT")
    os.kill(children(terminal.pid())[-1], signal.SIGTERM)
    shown = terminal.until("ended with 9")
    assert (shown.count("got SIGINT"), shown.count("got SIGQUIT")) == (1, 1), shown


@pytest.mark.parametrize("watch", ["", "--mask", "--watch"])
def test_the_terminal_is_the_commands(open_terminal, client, tmp_path, watch):  # noqa: F811
    terminal = at_terminal(open_terminal, client, tmp_path)
    script = 'test -t 0 && test -t 1 && test -t 2 && echo all; stty size; stty -echo; printf "say: "; read said </dev/tty; stty echo; echo; echo "you said $said"'
    terminal.type(f"{BINARY} run {watch} -- sh -c '{script}'; stty -a | grep -o -w -e '-*echo' -e '-*icanon' -e '-*opost'; echo end $?")
    terminal.until("say:")
    terminal.type("hidden")
    shown = terminal.until("end 0")
    lines = shown.splitlines()
    assert "all" in lines and "30 100" in lines and "say:" in [line.strip() for line in lines] and "you said hidden" in lines, shown
    assert {"echo", "icanon", "opost"} <= set(lines), f"the terminal is as it was\n{shown}"


def test_a_key_is_masked_on_a_terminal_and_the_window_may_change(open_terminal, client, tmp_path):  # noqa: F811
    terminal = at_terminal(open_terminal, client, tmp_path)
    script = 'echo "key $OPENAI_API_KEY"; trap "stty size; exit 3" WINCH; while :; do sleep 0.1; done'
    terminal.type(f"{BINARY} run --mask -- sh -c '{script}'; echo ended with $?")
    terminal.until("key [openai key]")
    terminal.resize(90, 25)
    terminal.until("25 90")
    terminal.until("ended with 3")


def test_at_a_terminal_too_a_rotated_key_starts_the_command_again(open_terminal, team, tmp_path):  # noqa: F811
    desk, env = team
    terminal = at_terminal(open_terminal, env, tmp_path)
    terminal.type(f"""{BINARY} run --mask --watch --interval 1s -- sh -c 'echo "begun with $OPENAI_API_KEY"; exec sleep 100'; echo ended""")
    terminal.until("begun with [openai key]")
    rotate(desk)
    shown = terminal.until("keydesk: the openai key has changed: the command is started again")
    assert eventually(lambda: terminal.shown().count("\nbegun with [openai key]") == 2, within=20), shown
    terminal.press("C-c")
    terminal.until("$")


def test_standard_input_from_elsewhere_is_the_commands(open_terminal, client, tmp_path):  # noqa: F811
    terminal = at_terminal(open_terminal, client, tmp_path)
    terminal.type(f"echo piped | {BINARY} run --mask -- sh -c 'test -t 1 && cat'; {BINARY} run --mask -- sh -c 'test -t 1 || read said; echo got $said' | cat")
    terminal.until("piped")
    terminal.type("typed")
    terminal.until("got typed")
