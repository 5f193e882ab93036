"""After a day's traffic in a minute, at the most verbose log level: no secret in the database, its WAL or any log."""

import base64
import json
import secrets
import stat
import urllib.parse

import pytest

from canaries import files, search
from conftest import PASSWORD


def hits(places, known):
    return search(places, {secret: name for name, secret in known.items()})


@pytest.fixture(scope="module")
def traffic(new_desk):
    """A desk after everything was done with it, and every secret that took part."""
    desk = new_desk().start()
    known = {**desk.keys, "SERVICE_API_KEY": desk.service_api_key, "admin's password": PASSWORD}

    def ask(**headers):
        for path in ("/llm-keys", "/llm-keys/openai", "/llm-keys?project=default"):
            assert desk.get(path, headers=headers).status_code == 200

    known["admin's access token"] = desk.login()
    known["full access token"] = desk.login(scope="llm-keys:read llm-keys:write audit:read admin")
    ask(Authorization=f"Bearer {known['admin' + chr(39) + 's access token']}")
    ask(**{"X-API-Key": desk.service_api_key})

    known["alice's password"] = f"alice's words {secrets.token_hex(10)}"
    desk.cli("user", "add", "alice", "--project", "default", "--password-stdin", stdin=known["alice's password"] + "\n")
    known["alice's access token"] = desk.login("alice", known["alice's password"])
    known["alice's new password"] = f"alice's words {secrets.token_hex(10)}"
    desk.cli("user", "passwd", "alice", "--password-stdin", stdin=known["alice's new password"] + "\n")
    known["alice's API key"] = desk.cli_json("api-key", "add", "alice")["api_key"]
    ask(**{"X-API-Key": known["alice's API key"]})

    desk.cli("service-account", "add", "ci", "--project", "default", "--file", "sa.json")
    account = json.loads((desk.home / "sa.json").read_text())
    known |= {"client secret": account["client_secret"], "service account's API key": account["token"]}
    ask(Authorization=f"Bearer {account['token']}", **{"X-Service-Account": account["client_id"]})
    form = {"grant_type": "client_credentials"}
    pair = (account["client_id"], account["client_secret"])
    known["machine's access token"] = desk.token_response(data=form, auth=pair).json()["access_token"]
    ask(Authorization=f"Bearer {known['machine' + chr(39) + 's access token']}")
    desk.token_response(data={**form, "client_id": pair[0], "client_secret": pair[1]})

    known["rotated key"] = f"sk-proj-CANARY{secrets.token_hex(20)}"
    desk.cli("key", "set", "openai", stdin=known["rotated key"] + "\n")
    known["new provider's key"] = f"own-CANARY{secrets.token_hex(20)}"
    desk.cli("key", "set", "our-own-llm", stdin=known["new provider's key"] + "\n")

    # Mistakes, in which secrets land where none belongs.
    known["a wrong password"] = f"wrong-CANARY{secrets.token_hex(10)}"
    wrong = known["a wrong password"]
    for user in ("admin", "nobody", wrong, desk.keys["OPENAI_API_KEY"]):
        desk.token_response(data={"grant_type": "password", "username": user, "password": wrong})
    desk.token_response(json={"grant_type": "password", "username": "admin", "password": PASSWORD})
    desk.token_response(params={"grant_type": "password", "username": "admin", "password": PASSWORD})
    desk.token_response(data=form, auth=(wrong, wrong))
    desk.get("/llm-keys", auth=("admin", PASSWORD))
    desk.get("/llm-keys", params={"access_token": known["full access token"], "api_key": account["token"]})
    desk.get("/llm-keys", headers={"Authorization": f"Bearer {known['full access token'][:-2]}xx"})
    desk.get("/llm-keys", headers={"X-API-Key": account["token"], "Authorization": f"Bearer {known['full access token']}"})
    desk.get("/llm-keys", headers={"Authorization": f"Bearer {account['token']}", "X-Service-Account": account["client_secret"]})
    desk.run("key", "set", "openai", stdin="sk-short\n")
    desk.run("user", "add", "bob", "--password-stdin", stdin="short\n")
    desk.cli("audit", "list", "--json")
    yield desk, known
    desk.kill()


@pytest.mark.parametrize("wrap", [
    lambda s: s.encode(), lambda s: s.encode().hex().encode(), lambda s: urllib.parse.quote(s).encode(),
    lambda s: json.dumps({"key": s}).encode(), lambda s: s.encode("utf-16-le"),
    lambda s: base64.b64encode(b"admin:" + s.encode()), lambda s: base64.urlsafe_b64encode(b"a" + s.encode() + b"bc"),
    lambda s: repr(list(s.encode())).encode(),
])
@pytest.mark.parametrize("secret", [
    "a secret:/+ ü of mine", "CANARY", "kd_rt_DO5CBAFANPADEXo97hFSZ1442k3pOgbg0IrMpLdAK5k2WMA5L",
])
def test_the_search_finds_what_is_there(tmp_path, secret, wrap):
    """The search itself can fail: it finds a secret in each of its forms, and those that nobody told it of."""
    (tmp_path / "file").write_bytes(b"before\0" + wrap(secret) + b"\0after\nnext line")
    assert hits([tmp_path / "file"], {"it": secret} if secret.startswith("a secret") else {})


def test_the_search_finds_a_signed_token_and_nothing_where_nothing_is(tmp_path):
    signed = lambda typ: base64.urlsafe_b64encode(json.dumps({"typ": typ}).encode()).decode().rstrip("=")
    (tmp_path / "file").write_text(f"{signed('at+jwt')}.eyJzdWIiOiIwMTIzNDU2Nzg5MCJ9.{'x' * 43}")
    assert hits([tmp_path / "file"], {}) == ["a token by its form in " + "/".join((tmp_path / "file").parts[-4:])]
    (tmp_path / "file").write_text(f"{signed('checkpoint+jwt')}.eyJzdWIiOiIwMTIzNDU2Nzg5MCJ9.{'x' * 43}")
    assert hits([tmp_path / "file"], {}) == []
    (tmp_path / "file").write_text("kd_rt_short eyJhbGciOi CANAR Y")
    assert hits([tmp_path / "file"], {"it": "a secret of mine"}) == []


def test_the_search_sees_names_and_routes(traffic):
    desk, _ = traffic
    assert hits(desk.stored(), {"a provider's name": "our-own-llm"})
    assert hits(files(desk.logs), {"a route": "/llm-keys"}), "the log says nothing: is it at its most verbose?"


def test_no_secret_is_in_the_database_or_a_log(traffic):
    desk, known = traffic
    names = {path.name for path in desk.stored()}
    assert any(name.endswith(("-wal", ".sql")) for name in names), f"the WAL is part of the search: {names}"
    assert hits(desk.stored() + files(desk.logs), known) == []


def test_no_secret_is_left_after_a_crash_and_a_restart(traffic):
    desk, known = traffic
    desk.kill()
    assert hits(desk.stored() + files(desk.logs), known) == []
    desk.start()
    assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).json()["openai"] == known["rotated key"]
    assert desk.stop() == 0
    assert hits(desk.stored() + files(desk.logs), known) == []


def test_signatures_of_tokens_are_not_logged(traffic):
    desk, known = traffic
    signatures = {name: token.rsplit(".", 1)[1] for name, token in known.items() if "access token" in name}
    assert len(signatures) == 4
    assert hits(desk.stored() + files(desk.logs), signatures) == []


def test_file_modes(traffic):
    """Although the umask of these processes forbids nothing."""
    desk, _ = traffic
    mode = lambda path: stat.S_IMODE(path.stat().st_mode)
    assert mode(desk.data) == 0o700
    assert mode(desk.data / "kek") == 0o600
    assert mode(desk.home / "sa.json") == 0o600
    open_to_others = [path.name for path in files(desk.data) if mode(path) & 0o077]
    assert open_to_others == []
