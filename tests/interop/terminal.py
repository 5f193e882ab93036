"""A real terminal: tmux, in which a person types and looks."""

import shutil
import subprocess
import time
import uuid

import pytest

MISSING = shutil.which("tmux") is None


class Terminal:
    """A window with a shell in it."""

    def __init__(self, env, cwd, columns=100, rows=30):
        self.socket = f"keydesk-{uuid.uuid4().hex}"
        variables = [f"{name}={value}" for name, value in {**env, "PS1": "$ ", "TERM": "screen"}.items()]
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(cwd),
                  "env", "-i", *variables, "sh", "-i")
        self.until("$")

    def tmux(self, *arguments):
        done = subprocess.run(["tmux", "-L", self.socket, "-f", "/dev/null", *arguments], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"tmux {arguments}: {done.stderr}"
        return done.stdout

    def type(self, line):
        self.tmux("send-keys", "-l", line)
        self.press("Enter")

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def pid(self):
        """The shell's."""
        return int(self.tmux("display-message", "-p", "#{pane_pid}"))

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def shown(self):
        """All lines, also those that have scrolled away; a line that is wrapped is one."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def until(self, text, within=30):
        """Waits until a line begins with `text`, and returns all that is shown."""
        deadline = time.monotonic() + within
        while True:
            shown = self.shown()
            if any(line.startswith(text) for line in shown.splitlines()):
                return shown
            assert time.monotonic() < deadline, f"no {text!r} in {within} s:\n{shown}"
            time.sleep(0.05)

    def end(self):
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, timeout=30)


@pytest.fixture
def open_terminal():
    """Opens windows, and closes them after the test."""
    if MISSING:
        pytest.skip("tmux is not installed")
    terminals = []

    def make(*arguments, **options):
        terminals.append(Terminal(*arguments, **options))
        return terminals[-1]

    yield make
    for terminal in terminals:
        terminal.end()
