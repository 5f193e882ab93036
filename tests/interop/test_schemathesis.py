"""schemathesis, all its checks, on the specification as served: as an administrator, as a member, and as nobody.

It comes with an access token and never logs in, so it cannot lock itself out.

KEYDESK_ROUNDS: examples for each operation, 20 by default.
"""

import os
import secrets
import subprocess

import pytest

from conftest import PASSWORD, WORK

EXAMPLES = max(1, min(1000, int(os.environ.get("KEYDESK_ROUNDS", "20"))))
SEED = 7  # the same requests in every run
SCOPES = "llm-keys:read llm-keys:write audit:read admin"


def member(desk):
    name, password = f"u-{secrets.token_hex(4)}", f"{secrets.token_hex(10)} is the word"
    desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password + "\n")
    return desk.login(name, password)


IDENTITIES = {
    "admin": lambda desk: desk.login("admin", PASSWORD, scope=SCOPES),
    "member": member,
    "anonymous": lambda desk: None,
}


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_specification_is_kept(new_desk, tmp_path, identity):
    desk = new_desk().start()
    token = IDENTITIES[identity](desk)
    command = [
        str(WORK / "venv" / "bin" / "schemathesis"), "run", f"{desk.url}/openapi.json", "--checks", "all",
        "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--workers", "2", "--continue-on-failure", "--no-color",
        "--generation-database", "none", "--request-timeout", "20", "--suppress-health-check", "all",
    ]
    if token:
        # One credential only: with an API key of schemathesis' own beside it, every request would rightly be refused.
        command += ["--header", f"Authorization: Bearer {token}", "--generation-with-security-parameters", "false"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=570)
    (tmp_path / "schemathesis.log").write_text(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-12000:]}\n{done.stderr[-3000:]}"
    print(done.stdout[-1500:])
    # It is still there, and says nothing of what went wrong inside.
    assert desk.get("/health").status_code == 200
    assert "panicked" not in desk.log.read_text(errors="replace")
    desk.stop()
