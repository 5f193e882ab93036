"""Clients in other languages: generated afresh with `scripts/sdk`, checked as strictly as their language can, and used by the
programs in `examples/sdk` for what a client is for: log in, fetch keys, rotate one, and find all three in the audit log.

Neither the specification nor a generated client is patched. Each program is built in a directory of its own, where
`docs/sdk.md` tells its reader to put the client.
"""

import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys

import pytest

import canaries
from conftest import PASSWORD, ROOT

EXAMPLES = ROOT / "examples" / "sdk"
TOOLS = ROOT / "target" / "sdk"
SOURCES = {"python": "main.py", "typescript": "main.ts", "rust": "src/main.rs", "go": "main.go", "java": "Main.java"}


def run(command, cwd, **env):
    """What a command did, which a shell would start in a directory."""
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, "RUST_BACKTRACE": "0", **env}, text=True,
        capture_output=True, timeout=900, stdin=subprocess.DEVNULL,
    )


def must(command, cwd, **env):
    done = run(command, cwd, **env)
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def project(language, tmp_path):
    """A directory with the example program and a client that was generated just now."""
    shutil.copytree(EXAMPLES / language, tmp_path, dirs_exist_ok=True)
    must([ROOT / "scripts" / "sdk", language], tmp_path)
    return tmp_path


def four_steps(desk, command, cwd):
    """Runs the program, and finds at the desk what it says that it did. Then twice more, to be refused."""
    key = f"sk-proj-CANARY{secrets.token_hex(20)}"
    canaries.remember(key, "a program with a generated client")
    settings = {
        "KEYDESK_URL": desk.url, "KEYDESK_USERNAME": "admin", "KEYDESK_PASSWORD": PASSWORD, "NEW_OPENAI_KEY": key,
    }
    credential = {"X-API-Key": desk.service_api_key}
    version = desk.get("/llm-keys/openai", headers=credential).json()["version"]

    said = must(command, cwd, **settings).splitlines()
    assert said[:2] == ["keys: anthropic, deepseek, gemini, openai", f"openai: version {version + 1}"]
    events = [re.fullmatch(r"\d\d:\d\d:\d\d (.*)", line)[1] for line in said[2:]]
    assert events == ["admin token.issue allowed", "admin llm_keys.read allowed", "admin provider_key.set allowed"]
    assert desk.get("/llm-keys/openai", headers=credential).json()["key"] == key

    # A refusal is understood, in either form, and says what the desk said.
    refused = run(command, cwd, **{**settings, "NEW_OPENAI_KEY": "too-short"})
    assert refused.returncode != 0 and "shorter than 16 characters" in refused.stderr, refused
    refused = run(command, cwd, **{**settings, "KEYDESK_PASSWORD": "not the password"})
    assert refused.returncode != 0 and "the user name or password is not right" in refused.stderr, refused


def needs(*commands):
    for command in commands:
        if not shutil.which(command):
            pytest.skip(f"{command} is missing")


def test_python(desk, tmp_path):
    where = project("python", tmp_path)
    must([sys.executable, "-m", "venv", "venv"], where)
    python = where / "venv" / "bin" / "python"
    must([python, "-m", "pip", "install", "--quiet", "./keydesk-client", "mypy==2.4.1"], where)
    must([python, "-m", "mypy", "--strict", "main.py", "keydesk-client/keydesk_client"], where)
    four_steps(desk, [python, "main.py"], where)


def test_typescript(desk, tmp_path):
    where = project("typescript", tmp_path)
    must(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], where)
    must(["npx", "--no-install", "tsc", "--strict", "--noEmit"], where)
    must(["npx", "--no-install", "tsc"], where)
    four_steps(desk, ["node", "dist/main.js"], where)


def test_rust(desk, tmp_path):
    needs("cargo")
    where = project("rust", tmp_path)
    # What was built for the generator, as far as it is the same, is not built again.
    profile = {"DEBUG": "0", "DEBUG_ASSERTIONS": "false"}
    env = {"CARGO_TARGET_DIR": str(TOOLS / "rust-target"), "CARGO_INCREMENTAL": "0"}
    env |= {f"CARGO_PROFILE_DEV_{name}": value for name, value in profile.items()}
    must(["cargo", "clippy", "--quiet", "--workspace", "--", "-D", "warnings"], where, **env)
    must(["cargo", "build", "--quiet"], where, **env)
    four_steps(desk, [TOOLS / "rust-target" / "debug" / "keydesk-example"], where)


def test_go(desk, tmp_path):
    """Without a module proxy: the only module that the client needs comes as a Debian package, laid out for GOPATH."""
    needs("java")
    go = pathlib.Path(sys.executable).with_name("go")
    packaged = pathlib.Path("/usr/share/gocode")
    for needed in (go, packaged / "src" / "golang.org" / "x" / "oauth2"):
        if not needed.exists():
            pytest.skip(f"{needed} is missing")
    modules = tmp_path / "src" / "keydesk.example" / "sdk"
    where = project("go", modules / "example")
    (where / "keydesk-client").rename(modules / "client")
    env = {
        "GO111MODULE": "off", "GOPATH": f"{tmp_path}:{packaged}", "GOCACHE": str(TOOLS / "go-cache"), "GOTOOLCHAIN": "local",
        "GOFLAGS": "", "CGO_ENABLED": "0",
    }
    must([go, "vet", "."], where, **env)
    must([go, "build", "-o", "example", "."], where, **env)
    four_steps(desk, [where / "example"], where)


def test_java(desk, tmp_path):
    """Without a repository of jars: the generator has most of what the client needs in its own."""
    needs("java", "javac")
    jars = [pathlib.Path("/usr/share/java") / f"{name}.jar" for name in
            ("httpmime", "httpclient", "httpcore", "jakarta-annotation-api")]
    for jar in jars:
        if not jar.exists():
            pytest.skip(f"{jar} is missing")
    where = project("java", tmp_path)
    jars += (TOOLS / "openapi-generator" / "venv").glob("lib/*/site-packages/openapi_generator_cli/*.jar")
    path = ":".join(map(str, jars))
    sources = sorted((where / "keydesk-client" / "src" / "main").rglob("*.java"))
    must(["javac", "-proc:none", "-nowarn", "-d", "classes", "-cp", path, *sources, "Main.java"], where)
    four_steps(desk, ["java", "-cp", f"classes:{path}", "Main"], where)


@pytest.mark.parametrize("language", SOURCES)
def test_the_page_shows_the_program_that_is_tested(language):
    page = (ROOT / "docs" / "sdk.md").read_text()
    source = (EXAMPLES / language / SOURCES[language]).read_text()
    assert f"```{language}\n{source}```\n" in page, "docs/sdk.md shows another program than examples/sdk"


def test_the_command_explains_itself(tmp_path):
    script = ROOT / "scripts" / "sdk"
    shown = run([script, "--help"], tmp_path)
    assert shown.returncode == 0 and "scripts/sdk python" in shown.stdout
    for wrong in ([], ["cobol"], ["go", "a", "b"]):
        refused = run([script, *wrong], tmp_path)
        assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", shown.stdout)
    # What is there already is not written over.
    (tmp_path / "keydesk-client").mkdir()
    refused = run([script, "go"], tmp_path)
    assert refused.returncode == 1 and "is there already" in refused.stderr
