"""The documents, as a reader has them: what they say to type is typed, in order, at a terminal, by somebody who has nothing but
the binary, an empty home and what an earlier line gave them.

What is in the text decides what happens. A fence of `sh` is typed. What a command prints is held against the comment in
JSON under it, or against the fence of `json` or `text` that follows at once: it has to be the same, but `…` stands for anything,
and times may be others. JSON, TOML, YAML and Python must be what they say they are.
HTML comments before a fence, which a reader does not see, say the rest:

    <!-- not run: why -->   it cannot be typed here; test_documents.py has the list of these
    <!-- as: alice -->      typed by alice on a machine of her own
    <!-- fails: 1 -->       the last command ends with that status
    <!-- file: name -->     the reader saves this under that name
    <!-- server: ended -->  the server is ended before this is typed

A workflow of GitHub Actions is run as its runner would, and what an agent's settings name as the command for its key is called as the
agent would. A server that a document starts has a terminal of its own, and the text goes on at another one; a second server means that the
first was ended with Ctrl-C. A document that does not begin with one is read at a desk that is there.
"""

import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import os
import pathlib
import re
import secrets
import subprocess
import sys
import time
import tomllib

import pexpect
import requests
import yaml
from markdown_it import MarkdownIt

from conftest import BINARY, ROOT, free_port

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
MARK = re.compile(r"<!--\s*(not run|as|fails|file|server):\s*(.*?)\s*-->", re.S)
SERVE = re.compile(r"(\w+=\S*\s+)*(keydesk|cargo run --release --)(\s+--\S+)*\s+serve\b")
ENDED = "\x1e"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclasses.dataclass
class Fence:
    """A block of code in a document."""

    document: str
    line: int
    language: str
    text: str
    marks: dict
    # Whether nothing but white space is between it and the fence before it.
    follows: bool = False

    @property
    def place(self):
        return f"{self.document}:{self.line}"


def name_of(path):
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)


@functools.cache
def tokens(path):
    return MarkdownIt("commonmark").enable("table").parse(path.read_text())


def fences(path):
    found, marks, before = [], {}, None
    for token in tokens(path):
        if token.type == "html_block":
            marks.update(MARK.findall(token.content))
        elif token.type == "fence":
            language = token.info.split()[0] if token.info.strip() else ""
            follows = before is not None and before == token.level
            found.append(Fence(name_of(path), token.map[0] + 1, language, token.content, marks, follows))
            marks, before = {}, token.level
        elif token.type not in ("paragraph_close", "list_item_close"):
            marks, before = {}, None
    return found


def slug(heading):
    """As GitHub names the place of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors(path):
    found, seen = set(), {}
    marked = tokens(path)
    for opening, inline in zip(marked, marked[1:]):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children if child.type in ("text", "code_inline"))
            name = slug(text)
            found.add(name if not seen.get(name) else f"{name}-{seen[name]}")
            seen[name] = seen.get(name, 0) + 1
    return found


def links(path):
    """Each target with its line."""
    for token in tokens(path):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src") if child.type in ("link_open", "image") else None
            if target:
                yield target, token.map[0] + 1
        if token.type in ("html_block", "inline"):
            for target in re.findall(r'(?:src|srcset|href)="([^"]+)"', token.content):
                yield target, token.map[0] + 1


def commands(text):
    """What is typed before each press of Enter that runs something, with the output that the text says it has."""
    found, typed, said = [], "", []

    def close():
        if said and found:
            found[-1] = (found[-1][0], "\n".join(said))
        said.clear()

    for line in text.splitlines():
        comment = line[2:] if line.startswith("# ") else None
        if comment is not None and not typed and (said or comment[:1] in "[{"):
            said.append(comment)
            continue
        if not typed and not line.split("#")[0].strip():
            continue
        close()
        typed += line + "\n"
        checked = subprocess.run(["bash", "-n"], input=typed, text=True, capture_output=True, check=False)
        whole = checked.returncode == 0 and not checked.stderr and not line.rstrip().endswith("\\")
        if whole:
            found.append((typed, None))
            typed = ""
        elif "unexpected end of file" not in checked.stderr and "matching" not in checked.stderr and checked.returncode:
            raise AssertionError(f"not a command: {typed}{checked.stderr}")
    close()
    assert not typed, f"the last command is not whole: {typed}"
    return found


# The shape of what a command prints.


def is_time(value):
    with contextlib.suppress(ValueError):
        return isinstance(value, str) and bool(datetime.datetime.fromisoformat(value))
    return False


def differs(said, shown, at="$"):
    """Why `shown` has not the shape that was said; None if it has it."""
    if said == "…":
        return None
    if isinstance(said, dict) and isinstance(shown, dict):
        open_end = said.pop("…", None) is not None
        if missing := said.keys() - shown.keys():
            return f"{at} has no {sorted(missing)}: {sorted(shown)}"
        if not open_end and (more := shown.keys() - said.keys()):
            return f"{at} has {sorted(more)} besides"
        return next((why for name in said if (why := differs(said[name], shown[name], f"{at}.{name}"))), None)
    if isinstance(said, list) and isinstance(shown, list):
        if len(said) > len(shown) or ("…" not in said and len(said) != len(shown)):
            return f"{at} has {len(shown)} entries"
        pairs = enumerate(zip(said, shown))
        return next((why for i, (a, b) in pairs if (why := differs(a, b, f"{at}[{i}]"))), None)
    if is_time(said) and is_time(shown):
        return None
    if isinstance(said, str) and isinstance(shown, str):
        return None if pattern(said).fullmatch(shown) else f"{at} is {shown!r}, not {said!r}"
    return None if said == shown and type(said) is type(shown) else f"{at} is {shown!r}, not {said!r}"


def pattern(said):
    return re.compile(".*".join(re.escape(part) for part in said.split("…")), re.S)


def elided(text):
    """JSON in which `…` may stand for further entries."""
    text = re.sub(r'([{,]\s*)…(\s*[},])', r'\1"…": "…"\2', text)
    text = re.sub(r'([\[,]\s*)…(\s*[\],])', r'\1"…"\2', text)
    return re.sub(r":(\s*)…", r':\1"…"', text)


def json_in(output):
    """The first thing in JSON of what was printed."""
    for start in (match.start() for match in re.finditer(r"[{\[]", output)):
        with contextlib.suppress(json.JSONDecodeError):
            yield json.JSONDecoder().raw_decode(output, start)[0]


def wrong(said, output):
    """Why this output is not what the document says; None if it is."""
    if said.lstrip()[:1] in "[{":
        reasons = [differs(json.loads(elided(said)), value) for value in json_in(output)] or ["nothing in JSON"]
        return None if None in reasons else reasons[0]
    shown = [line.rstrip() for line in output.splitlines()]
    for line in filter(None, map(str.rstrip, said.splitlines())):
        here = next((i for i, candidate in enumerate(shown) if pattern(loose(line)).fullmatch(loose(candidate))), None)
        if here is None:
            return f"no line is {line!r}"
        shown = shown[here + 1:]
    return None


def loose(line):
    """Columns may be wider, and dates and times others."""
    line = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:[\d.]+)?Z?)?", "TIME", line)
    return re.sub(r"\s+", " ", line).strip()


# The reader.

AGENTS = ("aider", "opencode")
ADMIN = "a long phrase of your own"


class Missing(Exception):
    """What a document needs and this machine has not."""


class Shell:
    """Somebody's terminal. It reads what it is to do from a pipe, so that what asks for something finds the terminal."""

    DRIVER = 'set -o pipefail; exec 9<>"$1"; while IFS= read -r typed <&9; do . "$typed" 9<&-; printf "\\x1e%s\\x1e" $?; done'

    def __init__(self, reader, home, environment):
        self.reader, self.home, self.left = reader, home, ""
        home.mkdir(exist_ok=True)
        # A refusal ends curl with a status, so that it does not go unnoticed.
        (home / ".curlrc").write_text("fail-with-body\n")
        feed = reader.scratch / f"feed-{next(reader.numbers)}"
        os.mkfifo(feed)
        self.feed = feed.open("r+b", buffering=0)
        self.terminal = pexpect.spawn(
            "bash", ["--norc", "--noprofile", "-c", self.DRIVER, "bash", str(feed)],
            cwd=home, env={**environment, "HOME": str(home)}, encoding="utf-8", codec_errors="replace", echo=False,
            dimensions=(50, 200), timeout=60)

    def begin(self, typed):
        path = self.reader.scratch / f"typed-{next(self.reader.numbers)}"
        path.write_text(typed)
        self.feed.write(f"{path}\n".encode())

    def run(self, typed):
        """Types it, answers what is asked, and returns the status and what was shown."""
        self.begin(typed)
        shown, last = "", ""
        asked = [re.compile(question + r"$") for question in self.reader.QUESTIONS]
        while True:
            which = self.terminal.expect([re.compile(f"{ENDED}(\\d+){ENDED}"), *asked, pexpect.EOF, pexpect.TIMEOUT])
            shown += self.terminal.before
            if which == 0:
                return int(self.terminal.match[1]), clean(shown)
            assert which <= len(asked), f"{typed}\nends the shell, or does not end, after:\n{clean(shown)}"
            shown += self.terminal.match[0]
            last = self.reader.answer(self.terminal.match, last)
            self.terminal.sendline(last)

    def shown(self):
        """What has been shown since the last look, of something that goes on."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                self.left += self.terminal.read_nonblocking(65536, timeout=0.05)
        return clean(self.left)

    def close(self):
        self.terminal.close(force=True)
        self.feed.close()


def clean(shown):
    return ANSI.sub("", shown).replace("\r", "")


class Reader:
    """Reads one document and does what it says."""

    # What is asked at a terminal, and by whom: see `answer`.
    QUESTIONS = [
        r"Password (?:of|for) ([\w.-]+)(?: at \S+)?: ",
        r"New password of ([\w.-]+): ",
        r"The same again: ",
        r"Key of ([\w.-]+)[^\n]*: ",
    ]

    def __init__(self, path, scratch, binary=BINARY):
        self.binary = binary
        self.path, self.scratch, self.numbers = path, scratch, itertools.count(1)
        self.port, self.metrics = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.elsewhere, self.etc = scratch / "elsewhere", scratch / "etc"
        self.home, self.bin = scratch / "reader", scratch / "bin"
        for directory in (self.elsewhere, self.etc, self.home, self.bin, self.home / "target" / "release"):
            directory.mkdir(parents=True)
        (self.home / "target" / "release" / "keydesk").symlink_to(binary)
        # Who reads the README has built it, and finds it where it was built.
        if path.name != "README.md" or path.parent != ROOT:
            (self.bin / "keydesk").symlink_to(binary)
        (self.bin / "cargo").write_text(
            f'#!/bin/sh\n[ "$1 $2 $3" = "run --release --" ] && shift 3 && exec {binary} "$@"\n'
            f'[ "$*" = "install --path ." ] && exec ln -s {binary} {self.bin}/keydesk\necho "not a cargo" >&2; exit 1\n')
        (self.bin / "cargo").chmod(0o755)
        # Programs of other people's that are to find their keys in the environment, as they do themselves.
        for agent in AGENTS:
            (self.bin / agent).write_text('#!/bin/sh\n[ -n "$OPENAI_API_KEY$ANTHROPIC_API_KEY" ]\n')
            (self.bin / agent).chmod(0o755)
        self.closing = contextlib.ExitStack()
        self.shells, self.server = {}, None
        self.provider_keys, self.phrases, self.log = {}, {"admin": ADMIN}, []

    def environment(self):
        """Nothing of whoever runs the tests."""
        python = pathlib.Path(sys.executable).parent
        return {
            "PATH": f"{self.bin}:{python}:{os.environ['PATH']}", "LANG": "C.UTF-8", "TERM": "dumb", "PAGER": "cat",
            "KEYDESK_SERVER__LISTEN": f"127.0.0.1:{self.port}", "KEYDESK_ALERTS__ALLOW_TO": "127.0.0.0/8",
        }

    def answer(self, question, last):
        """What the reader types when asked."""
        asked = question[0]
        if asked.startswith("New"):
            self.phrases[question[1]] = f"what {question[1]} made up on {secrets.token_hex(4)}"
        if asked.startswith(("New", "Password")):
            return self.phrases.setdefault(question[1], f"what {question[1]} made up for this")
        return last if asked.startswith("The same") else self.provider_key(f"sk-proj-{secrets.token_hex(20)}")

    # What is the reader's own.

    def provider_key(self, like):
        """A key that a provider could have given: another at each place."""
        key = f"{like}CANARY{secrets.token_hex(16)}"
        self.provider_keys[like] = key
        return key

    def stand_ins(self, text):
        """What the text cannot know is put in its place: where the desk listens, keys of providers, other machines."""
        text = re.sub(r"(127\.0\.0\.1|localhost):8000", f"127.0.0.1:{self.port}", text)
        text = text.replace("https://keys.example.com", self.url)
        text = text.replace("https://downloads.example.com/keydesk", f"file://{self.binary}")
        text = text.replace("127.0.0.1:9464", f"127.0.0.1:{self.metrics}")
        text = text.replace("/mnt/elsewhere", str(self.elsewhere)).replace("/etc/keydesk", str(self.etc))
        text = re.sub(r"(sk-proj-|sk-ant-|sk-|AIza)…", lambda key: self.provider_key(key[1]), text)
        if "alerts.example.com" in text:
            text = text.replace("https://alerts.example.com/keydesk", self.receiver.url)
        if "db.example.com" in text:
            text = re.sub(r"postgres://keydesk(:PASSWORD)?@db\.example\.com/keydesk", self.database, text)
        return text

    @functools.cached_property
    def receiver(self):
        from receiver import Receiver

        receiver = Receiver()
        self.closing.callback(receiver.server.shutdown)
        return receiver

    @functools.cached_property
    def database(self):
        import postgres

        if not postgres.program("initdb"):
            raise Missing("PostgreSQL")
        cluster = postgres.Cluster()
        self.closing.callback(cluster.close)
        cluster.query("create role keydesk login")
        cluster.query("create database keydesk owner keydesk")
        return f"postgres://keydesk@127.0.0.1:{cluster.port}/keydesk?sslmode=disable"

    # Reading.

    def shell(self, who="reader"):
        if who not in self.shells:
            self.shells[who] = Shell(self, self.scratch / who, self.environment())
        return self.shells[who]

    def desk_that_is_there(self):
        """The one of the quick start, in the reader's directory."""
        keys = " ".join(f"{name}_API_KEY={start}…" for name, start in (("OPENAI", "sk-proj-"), ("ANTHROPIC", "sk-ant-")))
        self.serve(f"export {keys} KEYDESK_ADMIN_PASSWORD='{ADMIN}'\nkeydesk serve\n", None)
        # It has been there for a while: the first checkpoint of its book is written.
        deadline = time.monotonic() + 30
        while not (self.home / "keydesk-data" / "audit.checkpoints").exists():
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)

    def serve(self, typed, said):
        """Starts a server in a terminal of its own."""
        self.end_server()
        self.server = Shell(self, self.home, self.environment())
        self.server.begin(self.stand_ins(typed))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shown = self.server.shown()
            assert ENDED not in shown, f"the server ended:\n{typed}\n{shown}"
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=5).ok and "/docs" in shown:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError(f"the server does not serve:\n{typed}\n{self.server.shown()}")
        while said and (why := wrong(said, self.server.shown())):
            assert time.monotonic() < deadline, f"{why}\n{self.server.shown()}"
        self.log.append((typed, self.server.shown()))

    def end_server(self):
        """Ctrl-C, as the reader would."""
        if self.server:
            self.server.left = ""
            self.server.terminal.sendintr()
            self.server.terminal.expect(f"{ENDED}(\\d+){ENDED}")
            status = int(self.server.terminal.match[1])
            self.server.close()
            self.server = None
            assert status in (0, 130), f"the server ended with {status}"

    def read(self):
        """Does all that the document says, and fails where it is wrong."""
        blocks = fences(self.path)
        typed = [block for block in blocks if block.language == "sh" and "not run" not in block.marks]
        if typed and not any(SERVE.match(command) for command, _ in commands(typed[0].text)):
            self.desk_that_is_there()
        output = ""
        for block, next_block in zip(blocks, [*blocks[1:], None]):
            if "not run" in block.marks:
                continue
            said = None
            if next_block and next_block.follows and next_block.language in ("json", "text"):
                said = next_block.text
            try:
                if block.language == "sh":
                    output = self.type(block, said)
                else:
                    self.take(block)
            except AssertionError as error:
                raise AssertionError(f"{block.place}: {error}") from None
            except Missing as error:
                raise Missing(f"from {block.place} on: {error} is not here") from None
        return output

    def type(self, block, said):
        if "server" in block.marks:
            self.end_server()
        typed, output, status = commands(block.text), "", 0
        expected = int(block.marks.get("fails", 0))
        serves = next((i for i, (command, _) in enumerate(typed) if SERVE.match(command)), None)
        if serves is not None:
            # What comes before it in the block is typed at the server's terminal.
            self.serve("".join(command for command, _ in typed[: serves + 1]), typed[serves][1])
            typed = typed[serves + 1:]
        for i, (command, comment) in enumerate(typed):
            last = i == len(typed) - 1
            shell = self.shell(block.marks.get("as", "reader"))
            status, output = shell.run(self.stand_ins(command))
            self.log.append((command, output))
            if reset := re.search(r"user reset-password (\w+)", command):
                self.phrases[reset[1]] = re.search(r"^password\s+(\S+)", output, re.M)[1]
            assert status == (expected if last else 0), f"{command}ends with {status}:\n{output}"
            for text in filter(None, (comment, said if last else None)):
                why = wrong(self.unmasked(text), output)
                assert why is None, f"{command}does not say what the document says: {why}\n{output}"
        return output

    def unmasked(self, said):
        """Where the desk is, in what it says."""
        return re.sub(r"(127\.0\.0\.1|localhost):8000", f"127.0.0.1:{self.port}", said)

    def take(self, block):
        """What is not typed is what it says it is, and is there for what comes after it."""
        text = self.stand_ins(block.text)
        check(block, text)
        if "file" in block.marks:
            path = self.shell(block.marks.get("as", "reader")).home / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if block.language == "yaml" and "jobs" in (workflow := yaml.safe_load(text)):
            for job in workflow["jobs"].values():
                self.work(job)
        for command in helpers(block, text):
            self.call(command)
        if block.language == "toml" and "model_providers" not in text:
            self.configure(text)
        if block.language == "python":
            done = subprocess.run([sys.executable, "-c", text], cwd=self.home, env=self.environment(), text=True,
                                  capture_output=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr

    def call(self, command):
        """An agent asks for its key: without a terminal, and everything that is printed is the key."""
        done = subprocess.run(command, cwd=self.home, env={**self.environment(), "HOME": str(self.home)}, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
        assert done.returncode == 0, f"{command} ends with {done.returncode}: {done.stderr}"
        assert done.stdout in self.provider_keys.values(), f"{command} printed {done.stdout!r}"

    def configure(self, text):
        """What is shown of keydesk.toml is a configuration, on a machine that has a certificate."""
        tls, file = self.etc / "tls", self.scratch / "keydesk.toml"
        if not tls.exists():
            tls.mkdir()
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                            "-subj", "/CN=keys.example.com", "-addext", "subjectAltName=DNS:keys.example.com",
                            "-keyout", tls / "key.pem", "-out", tls / "fullchain.pem"], capture_output=True, check=True)
        file.write_text(text)
        done = subprocess.run([self.binary, "config", "check", "--config", file], cwd=self.scratch, env={"PATH": os.environ["PATH"]},
                              text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"the desk does not take it: {done.stderr}"

    def work(self, job):
        """The steps of a job, each in a shell of its own; what other people's actions do is left out."""
        files = {name: self.scratch / name for name in ("GITHUB_ENV", "GITHUB_PATH")}
        for path in files.values():
            path.write_text("")
        known = {"KEYDESK_API_KEY": json.loads((self.home / "ci.json").read_text())["token"]}
        home = self.scratch / "runner"
        home.mkdir()
        left, masked = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}, set()
        for step in job["steps"]:
            if "uses" in step:
                continue
            given = {**job.get("env", {}), **step.get("env", {})}
            given = {name: re.sub(r"\$\{\{ secrets\.(\w+) }}", lambda secret: known[secret[1]], value) for name, value in given.items()}
            script = self.scratch / "step.sh"
            script.write_text(step["run"])
            done = subprocess.run(["bash", "-e", script], cwd=home, env={**left, **given, **{n: str(f) for n, f in files.items()}},
                                  text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
            said = f"{step['run']}\nends with {done.returncode}:\n{done.stdout}{done.stderr}"
            assert done.returncode == 0, said
            masked |= {line.removeprefix("::add-mask::") for line in done.stdout.splitlines() if line.startswith("::add-mask::")}
            left.update(variables(files["GITHUB_ENV"].read_text()))
            left["PATH"] = ":".join([*files["GITHUB_PATH"].read_text().split(), os.environ["PATH"]])
            files["GITHUB_ENV"].write_text("")
            rest = "".join(line for line in done.stdout.splitlines(True) if not line.startswith("::add-mask::")) + done.stderr
            for key in self.provider_keys.values():
                assert key not in rest, f"a key is in the log: {said}"
                assert key not in left.values() or key in masked, f"a key is not masked: {said}"

    def close(self):
        with contextlib.suppress(AssertionError, pexpect.ExceptionPexpect):
            self.end_server()
        for shell in self.shells.values():
            shell.close()
        self.closing.close()


def helpers(block, text):
    """The commands that an agent's settings name for its key."""
    if block.language == "json" and (command := json.loads(elided(text)).get("apiKeyHelper")):
        yield ["/bin/sh", "-c", command]
    if block.language == "toml":
        for provider in tomllib.loads(text).get("model_providers", {}).values():
            if "auth" in provider:
                yield [provider["auth"]["command"], *provider["auth"]["args"]]


def variables(text):
    """What a step has written for later ones: NAME=value, or NAME<<END and lines until END."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, multiline, end = line.partition("<<")
        if multiline and "=" not in name:
            found[name] = "\n".join(itertools.takewhile(lambda text, end=end: text != end, lines))
        elif line:
            name, _, found[name] = line.partition("=")
    return found


def check(block, text):
    """Whether a fence holds what its language says."""
    try:
        match block.language:
            case "json":
                json.loads(elided(text))
            case "toml":
                tomllib.loads(text)
            case "yaml":
                list(yaml.safe_load_all(text))
            case "python":
                compile(text, block.place, "exec")
            case "sh":
                commands(text)
    except (ValueError, SyntaxError, yaml.YAMLError) as error:
        raise AssertionError(f"{block.place} is not {block.language}: {error}") from None
