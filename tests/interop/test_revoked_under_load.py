"""Shut out while reading as fast as one can, with credentials that the desk knows by heart: not one key after the answer to
the change, whether it was made over HTTP or by the command line, in another process.

Asked of the clients, and of the book: no handover stands behind the change that forbids it.
"""

import dataclasses
import secrets
import threading
import time

import pytest
import requests

from conftest import PASSWORD, rounds
from sources import Client, login

CONNECTIONS = 8
FOR = 0.4  # seconds after the change
ROUNDS = rounds(1, 10)


@dataclasses.dataclass
class Answer:
    asked: float
    status: int
    key: str


class Readers:
    """Connections that read one key again and again, half of them with the access token and half with the API key."""

    def __init__(self, who):
        self.who, self.over, self.answers = who, threading.Event(), {"token": [], "api_key": []}
        self.threads = [threading.Thread(target=self.read, args=(kind,))
                        for kind in self.answers for _ in range(CONNECTIONS // 2)]

    def read(self, kind):
        headers = {"X-API-Key": self.who.api_key} if kind == "api_key" else self.who.bearer
        with Client(self.who.desk, "127.0.0.1") as client:
            while not self.over.is_set():
                asked = time.monotonic()
                reply = client.request("GET", "/llm-keys/openai", **headers)
                key = reply.json()["key"] if reply.status == 200 else None
                self.answers[kind].append(Answer(asked, reply.status, key))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        deadline = time.monotonic() + 20
        while min(len(answers) for answers in self.answers.values()) < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Person:
    """A user with a session and an API key, and an administrator who can do something about them."""

    def __init__(self, desk):
        self.desk, self.name = desk, f"u-{secrets.token_hex(4)}"
        self.password = f"{secrets.token_hex(10)} is the word"
        desk.cli("user", "add", self.name, "--project", "default", "--password-stdin", stdin=self.password + "\n")
        self.access_token = login(desk, self.name, self.password).json()["access_token"]
        self.bearer = {"Authorization": f"Bearer {self.access_token}"}
        made = self.send("POST", "/me/api-keys", self.bearer, {"label": "load"})
        self.api_key, self.api_key_id = made["api_key"], made["id"]
        self.admin = {"Authorization": f"Bearer {desk.login('admin', PASSWORD, scope='admin llm-keys:write')}"}
        self.new_key = f"sk-proj-CANARY{secrets.token_hex(20)}"

    def send(self, method, path, headers, body=None, form=None):
        answer = requests.request(method, f"{self.desk.url}{path}", headers=headers, json=body, data=form, timeout=60)
        assert answer.ok, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def patch(self, body):
        path = f"/admin/users/{self.name}"
        etag = requests.get(f"{self.desk.url}{path}", headers=self.admin, timeout=60).headers.get("ETag")
        return self.send("PATCH", path, self.admin | ({"If-Match": etag} if etag else {}), body)

    # Over HTTP.

    def disable(self):
        self.patch({"disabled": True})

    def delete(self):
        self.send("DELETE", f"/admin/users/{self.name}", self.admin)

    def revoke_token(self):
        self.send("POST", "/revoke", {}, form={"token": self.access_token, "client_id": "keydesk"})

    def end_session(self):
        session = self.send("GET", "/me/sessions", self.bearer)["items"][0]["id"]
        self.send("DELETE", f"/me/sessions/{session}", self.bearer)

    def remove_grant(self):
        self.send("DELETE", f"/admin/projects/default/grants/{self.name}", self.admin)

    def rotate_key(self):
        self.send("PUT", "/admin/projects/default/keys/openai", self.admin, {"key": self.new_key})

    def change_password(self):
        self.send("PUT", "/me/password", self.bearer,
                  {"old_password": self.password, "new_password": f"{secrets.token_hex(10)} is another"})

    def delete_api_key(self):
        self.send("DELETE", f"/me/api-keys/{self.api_key_id}", self.bearer)

    def replace_signing_key(self):
        self.send("POST", "/admin/signing-keys", self.admin, {"emergency": True})

    # By the command line.

    def commands(self):
        return {
            "disable": ("user", "disable", self.name),
            "delete": ("user", "delete", self.name),
            "remove_grant": ("grant", "remove", self.name, "default"),
            "rotate_key": ("key", "set", "openai"),
            "change_password": ("user", "passwd", self.name, "--password-stdin"),
            "delete_api_key": ("api-key", "revoke", self.api_key_id),
            "replace_signing_key": ("signing-key", "rotate", "--emergency"),
        }

    def command(self, change):
        typed = {"rotate_key": self.new_key, "change_password": f"{secrets.token_hex(10)} is another"}
        self.desk.cli(*self.commands()[change], stdin=typed.get(change, "") + "\n")


# What a change puts an end to, how it is answered from then on, and what the book calls it.
TOKEN, API_KEY = {"token": 401}, {"api_key": 401}
CHANGES = {
    "disable": (TOKEN | API_KEY, "principal.disable"),
    "delete": (TOKEN | API_KEY, "principal.delete"),
    "revoke_token": (TOKEN, "token.revoke"),
    "end_session": (TOKEN, "session.revoke"),
    "remove_grant": ({"token": 403, "api_key": 403}, "grant.remove"),
    "rotate_key": ({}, "provider_key.set"),
    "change_password": (TOKEN, "user.set_password"),
    "delete_api_key": (API_KEY, "api_key.revoke"),
    "replace_signing_key": (TOKEN, "signing_key.create"),
}
HOW = [(change, how) for change in CHANGES for how in ("http", "command line")
       if how == "http" or change not in ("revoke_token", "end_session")]


@pytest.fixture(scope="module")
def desk(new_desk):
    running = new_desk(RUST_LOG="info").start()
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("change, how", HOW)
def test_no_key_after_the_answer(desk, change, how):
    ends, action = CHANGES[change]
    for _ in range(ROUNDS):
        who = Person(desk)
        with Readers(who) as readers:
            getattr(who, change)() if how == "http" else who.command(change)
            done = time.monotonic()
            time.sleep(FOR)
        for kind, answers in readers.answers.items():
            assert {answer.status for answer in answers if answer.asked < done} >= {200}, "it was not read before"
            after = [answer for answer in answers if answer.asked > done]
            assert after, "it was not read afterwards"
            assert {answer.status for answer in after} == {ends.get(kind, 200)}, (kind, len(after))
            if change == "rotate_key":
                assert {answer.key for answer in after} == {who.new_key}, "the old key was handed over"
        check_book(desk, who, set(ends) or set(readers.answers), action)


def check_book(desk, who, kinds, action):
    """Events get their time inside the transaction that writes them, and one process writes at a time: their times are in the
    order in which they came to be true."""
    with desk.connect() as db:
        changed, version = db.execute(
            "select at, version from audit_events where action = ? and outcome = 'allowed' order by at desc limit 1",
            (action,)).fetchone()
        handed = db.execute(
            "select credential, version from audit_events where at > ? and actor = ? and action = 'llm_keys.read'"
            " and outcome = 'allowed'", (changed, who.name)).fetchall()
    if action == "provider_key.set":
        assert handed and {said for _, said in handed} == {f"openai={version}"}
    else:
        credentials = {"token": "access_token", "api_key": "api_key"}
        assert {credential for credential, _ in handed}.isdisjoint(credentials[kind] for kind in kinds)
