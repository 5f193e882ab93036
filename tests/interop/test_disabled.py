"""Who is shut out is out: every credential they hold and every way of getting another, at once where it was said and within a
second everywhere else."""

import json
import secrets
import threading
import time

import pytest
import requests

from conftest import PASSWORD
from sources import login

WITHIN = 1.0  # seconds, for another process
POLL = 0.02


@pytest.fixture(scope="module")
def admin(desk):
    """Headers of an administrator."""
    return {"Authorization": f"Bearer {desk.login('admin', PASSWORD, scope='admin')}"}


class Person:
    """A user with one credential of each kind."""

    kind = "users"

    def __init__(self, desk):
        self.desk, self.name = desk, f"u-{secrets.token_hex(4)}"
        self.password = f"{secrets.token_hex(10)} is the word"
        desk.cli("user", "add", self.name, "--project", "default", "--password-stdin", stdin=self.password + "\n")
        first = login(desk, self.name, self.password).json()
        second = login(desk, self.name, self.password).json()
        renewed = self.refresh(first["refresh_token"]).json()
        self.access_tokens = [first["access_token"], second["access_token"], renewed["access_token"]]
        self.refresh_tokens = [second["refresh_token"], renewed["refresh_token"]]
        self.api_key = desk.cli_json("api-key", "add", self.name)["api_key"]

    def refresh(self, token):
        return self.desk.token_response(data={"grant_type": "refresh_token", "refresh_token": token})

    def dead(self):
        """Asks each grant and each credential once; returns those that are not refused as they should be."""
        alive = check_keys(self)
        # From an address of its own each time, so that it is not the throttle that refuses.
        for reply in (login(self.desk, self.name, self.password), login(self.desk, self.name, self.password, scope="llm-keys:read")):
            if (reply.status, reply.json().get("error")) != (400, "invalid_grant"):
                alive.append(f"password: {reply.status} {reply.body}")
        for token in self.refresh_tokens:
            answer = self.refresh(token)
            if (answer.status_code, answer.json().get("error")) != (400, "invalid_grant"):
                alive.append(f"refresh: {answer.status_code} {answer.text}")
        return alive

    def command(self, verb):
        self.desk.cli("user", verb, self.name)


class Machine:
    """A service account with one credential of each kind."""

    kind = "service-accounts"

    def __init__(self, desk):
        self.desk, self.name = desk, f"m-{secrets.token_hex(4)}"
        made = desk.cli_json("service-account", "add", self.name, "--project", "default")
        self.client = (made["client_id"], made["client_secret"])
        self.api_key = desk.cli_json("api-key", "add", self.name)["api_key"]
        answer = self.ask()
        assert answer.status_code == 200, answer.text
        self.access_tokens = [answer.json()["access_token"]]

    def ask(self):
        return self.desk.token_response(data={"grant_type": "client_credentials"}, auth=self.client)

    def dead(self):
        alive = check_keys(self)
        answer = self.ask()
        if (answer.status_code, answer.json().get("error")) != (401, "invalid_client"):
            alive.append(f"client_credentials: {answer.status_code} {answer.text}")
        for path in ("/introspect", "/revoke"):
            answer = requests.post(f"{self.desk.url}{path}", data={"token": self.access_tokens[0]}, auth=self.client, timeout=30)
            if answer.status_code != 401:
                alive.append(f"{path}: {answer.status_code} {answer.text}")
        return alive

    def command(self, verb):
        self.desk.cli("service-account", verb, self.name)


def check_keys(who):
    alive = []
    shown = [{"Authorization": f"Bearer {token}"} for token in (*who.access_tokens, who.api_key)] + [{"X-API-Key": who.api_key}]
    for headers in shown:
        for path in ("/llm-keys", "/llm-keys/openai"):
            answer = who.desk.get(path, headers=headers)
            if answer.status_code != 401 or 'error="invalid_token"' not in answer.headers["WWW-Authenticate"]:
                alive.append(f"{path} {headers}: {answer.status_code}")
    return alive


@pytest.fixture(scope="module")
def asker(desk):
    """A service that asks about tokens."""
    made = desk.cli_json("service-account", "add", "asker")
    return made["client_id"], made["client_secret"]


def introspected(desk, asker, token):
    return requests.post(f"{desk.url}/introspect", data={"token": token}, auth=asker, timeout=30).text


def patch(desk, admin, who, disabled):
    url = f"{desk.url}/admin/{who.kind}/{who.name}"
    current = requests.get(url, headers=admin, timeout=30)
    assert current.status_code == 200, current.text
    headers = {**admin, "Content-Type": "application/json"}
    if "ETag" in current.headers:
        headers["If-Match"] = current.headers["ETag"]
    answer = requests.patch(url, headers=headers, data=json.dumps({"disabled": disabled}), timeout=30)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("make", [Person, Machine])
def test_disabled_over_http_is_disabled_at_once(desk, admin, asker, make):
    who = make(desk)
    assert who.desk.get("/llm-keys", headers={"X-API-Key": who.api_key}).status_code == 200
    patch(desk, admin, who, True)
    assert who.dead() == []
    for token in who.access_tokens:
        assert introspected(desk, asker, token) == '{"active":false}'


@pytest.mark.parametrize("make", [Person, Machine])
def test_disabled_by_the_command_line_is_disabled_within_a_second(desk, asker, make):
    who = make(desk)
    shown = [{"Authorization": f"Bearer {who.access_tokens[0]}"}, {"X-API-Key": who.api_key}]
    stop, successes = threading.Event(), []

    def poll(headers):
        with requests.Session() as http:
            while not stop.is_set():
                if http.get(f"{desk.url}/llm-keys", headers=headers, timeout=30).status_code == 200:
                    successes.append(time.monotonic())
                time.sleep(POLL)

    threads = [threading.Thread(target=poll, args=(headers,)) for headers in shown]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    who.command("disable")
    done = time.monotonic()
    time.sleep(WITHIN)
    dead = who.dead()
    stop.set()
    for thread in threads:
        thread.join()
    assert dead == []
    # A request that came in within the second may be answered after it.
    assert successes and max(successes) < done + WITHIN + 0.1, max(successes) - done
    for token in who.access_tokens:
        assert introspected(desk, asker, token) == '{"active":false}'


def test_enabled_again_works_again(desk):
    """Nothing of the above was an accident: the same person is let in once enabled."""
    who = Person(desk)
    who.command("disable")
    time.sleep(WITHIN)
    assert who.dead() == []
    who.command("enable")
    time.sleep(WITHIN)
    assert login(desk, who.name, who.password).status == 200
    assert desk.get("/llm-keys", headers={"X-API-Key": who.api_key}).status_code == 200
