"""Several processes on one PostgreSQL are one desk: whichever is asked, whichever dies, the promises hold.

Three processes behind a balancer for 30 s; for three minutes and with a kill every ten seconds in the full form.
"""

import concurrent.futures
import contextlib
import math
import random
import secrets
import threading
import time

import pytest
import requests

from conftest import FULL, PASSWORD, eventually, rounds
from history import check, check_spent, digest, now, openai
from load import Load
from postgres import Desks, cluster, database  # noqa: F401
from proxy import Proxy
from sources import Client, fresh_source, login
from test_refresh_race import add_user, refresh

SECONDS, KILL_EVERY = (180, 10) if FULL else (30, 4)
IN_FORCE = 1  # second
WRONG = "a wrong password it is"


class Front:
    """The desk as clients see it: behind a balancer."""

    def __init__(self, desks, balancer):
        self.desks, self.port = desks, balancer.port
        self.url = f"http://127.0.0.1:{self.port}"
        first = desks[0]
        self.env, self.keys, self.service_api_key = first.env, first.keys, first.service_api_key
        self.cli, self.cli_json, self.login = first.cli, first.cli_json, first.login

    def get(self, path, **options):
        return requests.get(f"{self.url}{path}", timeout=30, **options)

    def ask(self, method, path, **options):
        """Until somebody answers: the process that is asked may be killed at that moment."""
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(requests.ConnectionError):
                answer = requests.request(method, f"{self.url}{path}", timeout=10, **options)
                if answer.status_code != 503:
                    return answer
            assert time.monotonic() < deadline, (method, path)
            time.sleep(0.05)


@pytest.fixture
def front(new_desk, cluster, database):  # noqa: F811
    # The balancer's address is in the tokens, so it comes first.
    balancer = Proxy()
    desks = Desks(new_desk, cluster.url(database), 3, front=f"http://127.0.0.1:{balancer.port}")
    balancer.targets = [desk.port for desk in desks]
    desks.start()
    yield Front(desks, balancer)
    for desk in desks:
        desk.kill()
    balancer.close()


class Killer(threading.Thread):
    """Ends one process after another in the middle of whatever it does, and starts it again."""

    def __init__(self, desks):
        super().__init__()
        self.desks, self.over, self.killed, self.failure = list(desks), threading.Event(), 0, None

    def run(self):
        while not self.over.wait(KILL_EVERY * random.uniform(0.8, 1.2)):
            desk = self.desks[self.killed % len(self.desks)]
            desk.kill()
            self.killed += 1
            time.sleep(random.uniform(0, 1))
            try:
                desk.start(wait=10)
            except AssertionError as failure:
                self.failure = failure
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


class Guest:
    """Somebody who may read keys, for as long as that lasts."""

    def __init__(self, front):
        self.front, self.name = front, f"u-{secrets.token_hex(4)}"
        self.password = f"{secrets.token_hex(10)} is the word"
        front.cli("user", "add", self.name, "--project", "default", "--password-stdin", stdin=self.password + "\n")
        form = {"grant_type": "password", "username": self.name, "password": self.password}
        self.token = self.do("POST", "/token", data=form)["access_token"]
        made = self.do("POST", "/me/api-keys", headers=self.bearer(), json={"label": "cluster"})
        self.api_key, self.api_key_id = made["api_key"], made["id"]

    def bearer(self):
        return {"Authorization": f"Bearer {self.token}"}

    def do(self, method, path, **options):
        answer = self.front.ask(method, path, **options)
        # It was done, and the answer was lost, and then it is no more.
        assert answer.ok or (method, answer.status_code) == ("DELETE", 404), (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content and answer.ok else None

    def read(self, desk, credential):
        """What a process says; `None` where it is not there at this moment."""
        headers = {"X-API-Key": self.api_key} if credential == "api_key" else self.bearer()
        with contextlib.suppress(requests.ConnectionError):
            answer = requests.get(f"{desk.url}/llm-keys/openai", headers=headers, timeout=10)
            return answer.status_code, answer.json().get("key")

    # Each puts an end to something; returns by which credentials, and with what they are answered from then on.

    def revoke_api_key(self, admin):
        self.do("DELETE", f"/me/api-keys/{self.api_key_id}", headers=self.bearer())
        return {"api_key": 401}

    def revoke_token(self, admin):
        self.do("POST", "/revoke", data={"token": self.token, "client_id": "keydesk"})
        return {"token": 401}

    def disable(self, admin):
        path = f"/admin/users/{self.name}"
        etag = self.front.ask("GET", path, headers=admin).headers.get("ETag")
        answer = self.front.ask("PATCH", path, headers=admin | {"If-Match": etag}, json={"disabled": True})
        assert answer.status_code in (200, 412), answer.text
        return {"api_key": 401, "token": 401}

    def remove_grant(self, admin):
        self.do("DELETE", f"/admin/projects/default/grants/{self.name}", headers=admin)
        return {"api_key": 403, "token": 403}


def revoke_one(front, change, admin):
    """A revocation, and what each process makes of it from the moment when it was acknowledged."""
    guest = Guest(front)
    credentials = ("api_key", "token")
    for desk in front.desks:
        for credential in credentials:
            # So that it is known by heart there.
            assert (said := guest.read(desk, credential)) is None or said[0] in (200, 503), said
    ends = getattr(guest, change)(admin)
    done = time.monotonic()
    asked = 0
    while time.monotonic() < done + IN_FORCE + 0.3:
        for desk in front.desks:
            for credential, status in ends.items():
                begun = time.monotonic()
                said = guest.read(desk, credential)
                if said and said[0] != 503:
                    asked += 1
                    # The book is asked before each handover: not even within the second.
                    assert said[0] == status, (change, credential, said[0], begun - done)
    assert asked
    return asked


def rotate(front, admin):
    """From the moment when it was acknowledged no process hands out the key before."""
    reader = {"X-API-Key": front.service_api_key}
    old = front.ask("GET", "/llm-keys/anthropic", headers=reader).json()["key"]
    key = f"sk-ant-CANARY{secrets.token_hex(20)}"
    answer = front.ask("PUT", "/admin/projects/default/keys/anthropic", headers=admin, json={"key": key})
    assert answer.status_code in (200, 201), answer.text
    done, asked = time.monotonic(), 0
    while time.monotonic() < done + IN_FORCE:
        for desk in front.desks:
            with contextlib.suppress(requests.ConnectionError):
                answer = desk.get("/llm-keys/anthropic", headers=reader)
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    asked += 1
                    assert answer.json()["key"] == key, ("the old key", answer.json()["key"] == old, time.monotonic() - done)
    return asked


def test_processes_are_killed_and_nobody_notices(front, tmp_path):
    known, since = (openai(front), digest(front.keys["OPENAI_API_KEY"])), now()
    load = Load(front, tmp_path, clients=60, go_on=True, pause=0.2, mix={"read": 75, "login": 2, "refresh": 15, "rotate": 8})
    changes = ["revoke_api_key", "revoke_token", "disable", "remove_grant", "rotate"]
    asked, ended = 0, 0
    with load, Killer(front.desks) as killer, concurrent.futures.ThreadPoolExecutor(3) as pool:
        admin = {"Authorization": f"Bearer {front.login(scope='admin llm-keys:write')}"}
        deadline, running = time.monotonic() + SECONDS, []
        while time.monotonic() < deadline and not killer.failure:
            change = changes[ended % len(changes)]
            running.append(pool.submit(rotate, front, admin) if change == "rotate" else
                           pool.submit(revoke_one, front, change, admin))
            ended += 1
            time.sleep(1)
        asked = sum(work.result() for work in running)
        history = load.stop()
    assert killer.failure is None, killer.failure
    print(f"{killer.killed} processes killed, {ended} things ended and {asked} times asked about; {history}", flush=True)
    assert killer.killed > 2 and history.reads and history.acknowledged
    check(front, history, known, since)
    assert check_spent(front, history)
    # Who was killed last has begun a stream of its own.
    for desk in front.desks:
        answer = desk.get("/llm-keys/openai", headers={"X-API-Key": front.service_api_key})
        assert answer.status_code == 200, answer.text
    front.desks.assert_sound()
    assert [desk.stop() for desk in front.desks] == [0, 0, 0]


def test_one_refresh_token_at_two_processes_has_one_successor(front):
    user = add_user(front)
    sessions = [requests.Session() for _ in range(12)]
    with concurrent.futures.ThreadPoolExecutor(len(sessions)) as pool:
        form = {"grant_type": "password", "username": user[0], "password": user[1]}
        token = front.ask("POST", "/token", data=form).json()["refresh_token"]
        seen = {token}
        for _ in range(rounds(20, 200)):
            barrier = threading.Barrier(len(sessions))

            def use(number):
                barrier.wait()
                return refresh(sessions[number], front.desks[number % 3], token)

            answers = list(pool.map(use, range(len(sessions))))
            assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
            successors = {answer.json()["refresh_token"] for answer in answers}
            assert len(successors) == 1 and not successors & seen
            token = successors.pop()
            seen.add(token)
        # Revoked at one while it is refreshed at the others: dead everywhere.
        for _ in range(rounds(10, 100)):
            first = front.ask("POST", "/token", data=form).json()
            token = first["refresh_token"]
            barrier = threading.Barrier(4)

            def either(number):
                barrier.wait()
                if number == 3:
                    return sessions[3].post(f"{front.desks[1].url}/revoke", timeout=30,
                                            data={"token": token, "client_id": "keydesk"})
                return refresh(sessions[number], front.desks[number % 3], token)

            *answers, revoked = pool.map(either, range(4))
            assert revoked.status_code == 200, revoked.text
            issued = [answer.json() for answer in answers if answer.status_code == 200]
            for refresh_token in {token, *(answer["refresh_token"] for answer in issued)}:
                for desk in front.desks:
                    assert refresh(requests, desk, refresh_token).status_code == 400
            for access_token in [first["access_token"], *(answer["access_token"] for answer in issued)]:
                for desk in front.desks:
                    answer = desk.get("/llm-keys", headers={"Authorization": f"Bearer {access_token}"})
                    assert answer.status_code == 401, answer.text


def test_a_token_signed_with_a_new_key_is_good_everywhere(front):
    first, second, third = front.desks
    for emergency in (False, True):
        admin = {"Authorization": f"Bearer {first.login(scope='admin')}"}
        old = third.login()
        answer = requests.post(f"{first.url}/admin/signing-keys", headers=admin, json={"emergency": emergency}, timeout=30)
        assert answer.ok, answer.text
        # The others learn of it within the second: until then they sign with the key before, if that is still good.
        time.sleep(IN_FORCE)
        kids = [[key["kid"] for key in desk.get("/.well-known/jwks.json").json()["keys"]] for desk in front.desks]
        assert kids[0] == kids[1] == kids[2]
        for issuer in front.desks:
            token = {"Authorization": f"Bearer {issuer.login()}"}
            assert [desk.get("/llm-keys", headers=token).status_code for desk in front.desks] == [200] * 3
        was = [desk.get("/llm-keys", headers={"Authorization": f"Bearer {old}"}).status_code for desk in front.desks]
        assert was == [401 if emergency else 200] * 3


def test_guesses_at_two_processes_count_together(front):
    name, password = add_user(front)
    source = fresh_source()
    said = [login(front.desks[number % 2], name, WRONG, source).status for number in range(6)]
    assert said == [400] * 5 + [429]
    assert {login(desk, name, password, source).status for desk in front.desks} == {429}
    assert login(front.desks[2], name, password).status == 200
    # All at once at all of them. After five it is closed for a second, then for two, four and so on: how many more there may be
    # is a matter of how long the twelve take. The right password begins the count anew.
    for right in (None, 11):
        other, password = add_user(front)
        source, barrier = fresh_source(), threading.Barrier(12)

        def guess(number):
            barrier.wait()
            return login(front.desks[number % 3], other, password if number == right else WRONG, source).status

        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(guess, range(12)))
        openings = int(math.log2(time.monotonic() - begun + 1))
        assert statuses.count(400) <= (5 + openings) * (2 if 200 in statuses else 1), statuses
        assert statuses.count(200) <= (right is not None) and set(statuses) <= {200, 400, 429, 503}, statuses


@pytest.mark.parametrize("count", [2, 3])
def test_the_first_start_of_several_is_one(new_desk, cluster, database, count):  # noqa: F811
    desks = Desks(new_desk, cluster.url(database), count)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda desk: desk.start(), desks))
    assert [row["name"] for row in desks[0].cli_json("user", "list")] == ["admin"]
    made = [event["action"] for event in desks[0].cli_json("audit", "list", "--limit", "1000")]
    assert made.count("desk.initialise") == 1 and made.count("signing_key.create") == 1 and made.count("server.start") == count
    assert {row["version"] for row in desks[0].cli_json("key", "list")} == {1}
    kids = []
    for desk in desks:
        assert desk.login("admin", PASSWORD)
        assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).json() == desk.expected_keys()
        kids.append(desk.get("/.well-known/jwks.json").json())
    assert all(keys == kids[0] for keys in kids)
    desks.assert_sound()
    assert [desk.stop() for desk in desks] == [0] * count


def test_a_change_at_the_command_line_is_in_force_everywhere(front):
    guest = Guest(front)
    for desk in front.desks:
        assert [guest.read(desk, credential)[0] for credential in ("api_key", "token")] == [200, 200]
    front.desks[2].cli("user", "disable", guest.name)
    for desk in front.desks:
        assert [guest.read(desk, credential)[0] for credential in ("api_key", "token")] == [401, 401]
        # What hands nothing over may take a second.
        assert eventually(lambda: requests.get(f"{desk.url}/me", headers=guest.bearer(), timeout=30).status_code == 401)
