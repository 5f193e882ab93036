"""schemathesis, all its checks, on the specification as served: as an administrator, as a member, and as nobody.

It comes with an access token and never logs in, so it cannot lock itself out.

Examples for each operation: 20, or 100 in the full form.
"""

import os
import secrets
import subprocess

import pytest

from conftest import PASSWORD, ROOT, WORK, rounds

EXAMPLES = rounds(20, 100)
SEED = 7  # with one worker: the same requests in every run
SCOPES = "llm-keys:read llm-keys:write audit:read admin"


def member(desk):
    name, password = f"u-{secrets.token_hex(4)}", f"{secrets.token_hex(10)} is the word"
    desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password + "\n")
    return desk.login(name, password)


def admin(desk):
    return desk.login("admin", PASSWORD, scope=SCOPES)


def admin_key(desk):
    admin(desk)  # a session to end
    return desk.cli_json("api-key", "add", "admin", "--scope", SCOPES)["api_key"]


# What ends access tokens, the caller's own too, is called with an API key instead.
SUICIDAL = ["POST /admin/signing-keys", "DELETE /me/sessions/{id}"]


def each(option, operations):
    return [word for operation in operations for word in (option, operation)]


# identity: (where its credential comes from, further arguments)
IDENTITIES = {
    "admin": (admin, each("--exclude-name", SUICIDAL)),
    "admin with an API key": (admin_key, each("--include-name", [*SUICIDAL, "GET /me/sessions"])),
    "member": (member, each("--exclude-name", SUICIDAL)),
    "anonymous": (None, []),
}


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_specification_is_kept(new_desk, tmp_path, identity):
    desk = new_desk().start()
    make, arguments = IDENTITIES[identity]
    command = [
        str(WORK / "venv" / "bin" / "schemathesis"), "--config-file", str(ROOT / "tests" / "interop" / "schemathesis.toml"),
        "run", f"{desk.url}/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES), "--seed", str(SEED),
        "--workers", "1", "--continue-on-failure", "--no-color", "--generation-database", "none", "--request-timeout", "20",
        "--suppress-health-check", "all", *arguments,
    ]
    if make:
        credential = {"Authorization": f"Bearer {make(desk)}"}
        # One credential only: with an API key of schemathesis' own beside it, every request would rightly be refused.
        command += ["--header", f"Authorization: {credential['Authorization']}", "--generation-with-security-parameters", "false"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=570)
    (tmp_path / "schemathesis.log").write_text(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-3000:]}"
    print(done.stdout[-1500:])
    # It is still there, says nothing of what went wrong inside, and nobody was shut out on the way.
    assert desk.get("/health").status_code == 200
    assert "panicked" not in desk.log.read_text(errors="replace")
    if make:
        assert desk.get("/me", headers=credential).status_code == 200
    desk.stop()
