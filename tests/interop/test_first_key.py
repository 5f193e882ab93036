"""One command, and a team fetches its keys: with the password grant and the three ways key-fetching clients use."""

import json
import secrets
import subprocess

import pytest
import requests

from conftest import BINARY, PASSWORD, eventually


@pytest.fixture(scope="module")
def account(desk):
    """A service account's file, as a CI job would get it."""
    desk.cli("service-account", "add", "ci", "--project", "default", "--file", "sa.json")
    return json.loads((desk.home / "sa.json").read_text())


def bearer(token, **more):
    return {"Authorization": f"Bearer {token}", **more}


def test_health_says_exactly_healthy(desk):
    answer = desk.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]


def test_readiness_names_its_dependencies(desk):
    answer = desk.get("/health/ready")
    assert answer.status_code == 200, answer.text
    assert desk.get("/health").headers["X-Request-Id"] != answer.headers["X-Request-Id"]


def test_start_shows_the_address_and_no_secret(desk):
    shown = desk.log.read_text()
    assert desk.url in shown and "/docs" in shown and "curl" in shown
    assert PASSWORD not in shown


def test_password_then_keys(desk):
    form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
    answer = desk.token_response(data=form)
    assert answer.status_code == 200, answer.text
    assert "no-store" in answer.headers["Cache-Control"]
    body = answer.json()
    assert body["token_type"].lower() == "bearer"
    assert body["expires_in"] == 600
    assert body.get("scope", "llm-keys:read") == "llm-keys:read"

    keys = desk.get("/llm-keys", headers=bearer(body["access_token"]))
    assert (keys.status_code, keys.json()) == (200, desk.expected_keys())
    assert "no-store" in keys.headers["Cache-Control"]
    vary = {name.strip().lower() for name in keys.headers["Vary"].split(",")}
    assert {"authorization", "x-api-key"} <= vary


def test_one_key_with_its_particulars(desk):
    answer = desk.get("/llm-keys/openai", headers=bearer(desk.login()))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["key"] == desk.keys["OPENAI_API_KEY"]
    assert (body["provider"], body["project"], body["mode"], body["env"]) == ("openai", "default", "static", "OPENAI_API_KEY")
    assert body["version"] == 1
    assert desk.get("/llm-keys/nobody", headers=bearer(desk.login())).status_code == 404


def test_service_api_key(desk):
    answer = desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key})
    assert (answer.status_code, answer.json()) == (200, desk.expected_keys())


@pytest.mark.parametrize("way", ["basic", "form"])
def test_client_credentials(desk, account, way):
    credentials = {"client_id": account["client_id"], "client_secret": account["client_secret"]}
    form = {"grant_type": "client_credentials"}
    if way == "basic":
        answer = desk.token_response(data=form, auth=tuple(credentials.values()))
    else:
        answer = desk.token_response(data=form | credentials)
    assert answer.status_code == 200, answer.text
    assert "refresh_token" not in answer.json()  # RFC 6749 §4.4.3
    keys = desk.get("/llm-keys", headers=bearer(answer.json()["access_token"]))
    assert (keys.status_code, keys.json()) == (200, desk.expected_keys())


@pytest.mark.parametrize("way", ["basic", "form"])
def test_a_wrong_client_secret_is_refused(desk, account, way):
    wrong = account["client_secret"][:-1] + ("a" if account["client_secret"][-1] != "a" else "b")
    form = {"grant_type": "client_credentials"}
    if way == "basic":
        answer = desk.token_response(data=form, auth=(account["client_id"], wrong))
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    else:
        answer = desk.token_response(data={**form, "client_id": account["client_id"], "client_secret": wrong})
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("name", ["client_id", "empty", "absent"])
def test_service_account_file(desk, account, name):
    assert account["type"] == "service_account" and account["created_at"]
    companion = {"client_id": {"X-Service-Account": account["client_id"]}, "empty": {"X-Service-Account": ""}, "absent": {}}
    answer = desk.get("/llm-keys", headers=bearer(account["token"], **companion[name]))
    assert (answer.status_code, answer.json()) == (200, desk.expected_keys())


def test_a_wrong_service_account_name_is_refused(desk, account):
    for name in ("somebody-else", account["client_id"] + "x", desk.service_api_key):
        answer = desk.get("/llm-keys", headers=bearer(account["token"], **{"X-Service-Account": name}))
        assert answer.status_code in (401, 403), answer.text
        assert account["token"] not in answer.text and name not in answer.text


def test_two_credentials_are_refused(desk, account):
    token = desk.login()
    for headers in (bearer(token, **{"X-API-Key": desk.service_api_key}), bearer("junk", **{"X-API-Key": desk.service_api_key})):
        answer = desk.get("/llm-keys", headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_without_a_credential(desk):
    answer = desk.get("/llm-keys")
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith("Bearer") and "error" not in challenge  # RFC 6750 §3.1
    assert 'error="invalid_token"' in desk.get("/llm-keys", headers=bearer("junk")).headers["WWW-Authenticate"]


def test_an_unchanged_answer_is_cheap_and_empty(desk):
    headers = {"X-API-Key": desk.service_api_key}
    first = desk.get("/llm-keys", headers=headers)
    tag = first.headers["ETag"]
    assert not any(key[-12:] in tag for key in desk.keys.values())
    again = desk.get("/llm-keys", headers={**headers, "If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    other = desk.get("/llm-keys", headers={**headers, "If-None-Match": '"something-else"'})
    assert (other.status_code, other.json()) == (200, first.json())
    # A tag is no credential.
    assert desk.get("/llm-keys", headers={"If-None-Match": tag}).status_code == 401


def test_a_new_user_sees_what_was_granted_and_when_it_was_taken(desk):
    password = f"a few words {secrets.token_hex(8)}"
    desk.cli("user", "add", "alice", "--project", "default", "--password-stdin", stdin=password + "\n")
    token = desk.login("alice", password)
    assert desk.get("/llm-keys", headers=bearer(token)).json() == desk.expected_keys()
    key = desk.cli_json("api-key", "add", "alice")["api_key"]
    assert desk.get("/llm-keys", headers={"X-API-Key": key}).json() == desk.expected_keys()
    # In force within a second, for the token as for the key.
    desk.cli("user", "disable", "alice")
    assert eventually(lambda: desk.get("/llm-keys", headers=bearer(token)).status_code == 401)
    assert eventually(lambda: desk.get("/llm-keys", headers={"X-API-Key": key}).status_code == 401)


def test_what_was_just_allowed_is_not_refused(new_desk):
    """Who has been refused once is remembered with what there was then; what was changed since counts at once."""
    desk = new_desk()
    desk.start()
    account = desk.cli_json("service-account", "add", "ci")
    read = lambda path: desk.get(path, headers={"X-API-Key": account["token"]}).status_code  # noqa: E731
    for number in range(5):
        project, provider = f"search-{number}", f"provider-{number}"
        desk.cli("project", "add", project)
        assert read(f"/llm-keys?project={project}") == 403
        desk.cli("grant", "add", "ci", project)
        assert read(f"/llm-keys?project={project}") == 200
        assert read(f"/llm-keys/{provider}?project={project}") == 404
        desk.cli("key", "set", provider, "--project", project, stdin=f"sk-{secrets.token_hex(20)}\n")
        assert read(f"/llm-keys/{provider}?project={project}") == 200


@pytest.mark.sqlite("any number of servers work on one database")
def test_a_second_server_on_the_same_directory_says_why_it_stops(desk):
    second = subprocess.run(
        [BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(desk.data)],
        cwd=desk.home, env=desk.env, capture_output=True, text=True, timeout=30,
    )
    assert second.returncode == 1
    assert str(desk.data.name) in second.stderr.splitlines()[-1] or "running" in second.stderr
    assert desk.get("/health").status_code == 200


def test_only_a_changed_variable_changes_a_key(new_desk):
    """Rotated by hand, restarted: the rotation stays. A changed variable is a new version."""
    desk = new_desk().start()
    headers = {"X-API-Key": desk.service_api_key}
    tag = desk.get("/llm-keys", headers=headers).headers["ETag"]
    rotated = f"sk-proj-CANARY{secrets.token_hex(20)}"
    desk.cli("key", "set", "openai", stdin=rotated + "\n")
    polled = eventually(lambda: (answer := desk.get("/llm-keys", headers={**headers, "If-None-Match": tag})).status_code == 200 and answer)
    assert polled.json()["openai"] == rotated and polled.headers["ETag"] != tag

    assert desk.stop() == 0
    desk.env["ANTHROPIC_API_KEY"] = f"sk-ant-api03-CANARY{secrets.token_hex(20)}"
    desk.start()
    keys = desk.get("/llm-keys", headers=headers).json()
    assert keys == desk.expected_keys() | {"openai": rotated, "anthropic": desk.env["ANTHROPIC_API_KEY"]}
    versions = {row["provider"]: row["version"] for row in desk.cli_json("key", "list")}
    assert versions == {"openai": 2, "anthropic": 2, "gemini": 1, "deepseek": 1}
    assert requests.get(f"{desk.url}/health", timeout=5).json() == {"status": "healthy"}
    desk.stop()
