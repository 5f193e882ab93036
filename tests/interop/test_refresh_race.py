"""A refresh token is good for one exchange, whoever is faster, whatever happens at the same moment, and after a crash too.

Rounds of each race: 20, or 200 in the full form.
"""

import secrets
import threading
import time

import pytest
import requests

from conftest import eventually, rounds
from sources import Client, fresh_source, login

ROUNDS = rounds(20, 200)
THREADS = 64
GRACE = 10  # seconds in which a lost answer can be asked for again
WRONG = "a wrong password it is"


@pytest.fixture(scope="module")
def user(desk):
    return add_user(desk)


def add_user(desk):
    name, password = f"u-{secrets.token_hex(4)}", f"{secrets.token_hex(10)} is the word"
    desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password + "\n")
    return name, password


def session_of(desk, user):
    """The tokens of a new login."""
    form = {"grant_type": "password", "username": user[0], "password": user[1]}
    answer = desk.token_response(data=form)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refresh(http, desk, token):
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "keydesk"}
    return http.post(f"{desk.url}/token", data=form, timeout=60)


def revoke(http, desk, token):
    return http.post(f"{desk.url}/revoke", data={"token": token, "client_id": "keydesk"}, timeout=60)


def keys_status(desk, token):
    return desk.get("/llm-keys", headers={"Authorization": f"Bearer {token}"}).status_code


def assert_dead(desk, *refresh_tokens):
    for token in refresh_tokens:
        answer = refresh(requests, desk, token)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def generations(desk, user):
    """What the database says of a user's newest session: its generation, and those of its tokens. Read only."""
    with desk.connect() as connection:
        family, generation = connection.execute(
            "select f.id, f.generation from token_families f join principals p on p.id = f.principal_id"
            " where p.name = ? order by f.id desc limit 1", (user[0],),
        ).fetchone()
        rows = connection.execute("select generation from refresh_tokens where family_id = ? order by 1", (family,))
        return generation, [row[0] for row in rows]


class Crowd:
    """Threads that each have a connection, and all start at the same moment, round after round."""

    def __init__(self, size):
        self.sessions = [requests.Session() for _ in range(size)]

    def at_once(self, *tasks):
        """Runs as many tasks as there are threads; returns what each returned."""
        barrier = threading.Barrier(len(tasks))
        results = [None] * len(tasks)

        def run(number, task):
            barrier.wait()
            results[number] = task(self.sessions[number])

        threads = [threading.Thread(target=run, args=entry) for entry in enumerate(tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert None not in results
        return results


@pytest.fixture(scope="module")
def crowd():
    made = Crowd(THREADS)
    yield made
    for session in made.sessions:
        session.close()


def test_sixty_four_uses_of_one_token_are_one(desk, user, crowd):
    """Rotations follow each other without a pause, so many of them fall into the same second."""
    token = session_of(desk, user)["refresh_token"]
    seen = {token}
    for number in range(1, ROUNDS + 1):
        answers = crowd.at_once(*[lambda http: refresh(http, desk, token)] * THREADS)
        statuses = {answer.status_code for answer in answers}
        # The same client at the same address, within the grace: every answer is the same one, none is an attack.
        assert statuses == {200}, [answer.text for answer in answers if answer.status_code != 200][:3]
        successors = {answer.json()["refresh_token"] for answer in answers}
        assert len(successors) == 1 and not successors & seen
        assert generations(desk, user) == (number + 1, list(range(1, number + 2)))
        token = successors.pop()
        seen.add(token)
    assert keys_status(desk, answers[0].json()["access_token"]) == 200


def test_a_session_revoked_while_it_is_refreshed_is_dead(desk, user, crowd):
    for _ in range(ROUNDS):
        first = session_of(desk, user)
        token = first["refresh_token"]
        refreshing = [lambda http: refresh(http, desk, token)] * 7
        *answers, revoked = crowd.at_once(*refreshing, lambda http: revoke(http, desk, token))
        assert revoked.status_code == 200, revoked.text
        assert {answer.status_code for answer in answers} <= {200, 400}
        issued = [answer.json() for answer in answers if answer.status_code == 200]
        for answer in answers:
            assert answer.status_code == 200 or answer.json()["error"] == "invalid_grant"
        assert_dead(desk, *{token, *(answer["refresh_token"] for answer in issued)})
        for access_token in [first["access_token"], *(answer["access_token"] for answer in issued)]:
            assert keys_status(desk, access_token) == 401


def test_a_spent_token_that_comes_back_ends_the_session(desk, user):
    other = session_of(desk, user)
    sessions = [session_of(desk, user) for _ in range(3)]
    replayed = []
    for first in sessions:
        second = refresh(requests, desk, first["refresh_token"]).json()
        replayed.append([first, second])
    # Two generations back: no lost answer looks like that, however soon it comes.
    third = refresh(requests, desk, replayed[0][1]["refresh_token"]).json()
    replayed[0].append(third)
    # From another address within the grace: somebody else has it.
    with Client(desk, fresh_source()) as elsewhere:
        reply = elsewhere.token(grant_type="refresh_token", refresh_token=sessions[2]["refresh_token"])
        assert (reply.status, reply.json()["error"]) == (400, "invalid_grant")
    time.sleep(GRACE + 1)
    for tokens in replayed[:2]:
        answer = refresh(requests, desk, tokens[0]["refresh_token"])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    for tokens in replayed:
        assert_dead(desk, *(answer["refresh_token"] for answer in tokens))
        for answer in tokens:
            assert keys_status(desk, answer["access_token"]) == 401
    reuse = [event for event in desk.cli_json("audit", "list", "--limit", "500") if event["action"] == "refresh_token.reuse"]
    assert len(reuse) == 3, reuse
    assert len({event["object"] for event in reuse}) == 3
    for event in reuse:
        assert (event["outcome"], event["actor"], event["credential"]) == ("denied", user[0], "refresh_token")
    # Nobody else's session, and no other one of this user.
    assert keys_status(desk, other["access_token"]) == 200
    assert refresh(requests, desk, other["refresh_token"]).status_code == 200


def test_two_generations_at_once_end_the_session_or_rotate_it_once(desk, user, crowd):
    """The newest and the one before, then the one before that: no mixture leaves two live lineages."""
    first = session_of(desk, user)["refresh_token"]
    second = refresh(requests, desk, first).json()["refresh_token"]
    both = [lambda http: refresh(http, desk, first), lambda http: refresh(http, desk, second)] * (THREADS // 2)
    answers = crowd.at_once(*both)
    issued = {answer.json()["refresh_token"] for answer in answers if answer.status_code == 200}
    # `second` for the uses of `first` that came before `second` was used; its successor otherwise.
    assert len(issued - {second}) <= 1
    generation, rows = generations(desk, user)
    assert rows == list(range(1, generation + 1)) and generation <= 3
    # Some use of `first` surely came after `second` was spent: an attack, as far as anybody can know.
    if any(answer.status_code == 400 for answer in answers):
        assert_dead(desk, first, second, *issued)


def test_what_a_refresh_may_ask_for(desk, user):
    first = session_of(desk, user)["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": first}
    for scope in ("admin", "llm-keys:read admin", "llm-keys:write"):
        answer = desk.token_response(data={**form, "scope": scope})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    machine = desk.cli_json("service-account", "add", f"m-{secrets.token_hex(4)}")
    other_client = desk.token_response(data=form, auth=(machine["client_id"], machine["client_secret"]))
    assert (other_client.status_code, other_client.json()["error"]) == (400, "invalid_grant")
    # None of those was a use.
    second = desk.token_response(data={**form, "scope": "llm-keys:read"})
    assert second.status_code == 200, second.text
    # A refresh token is for the token endpoint only, and an access token is not.
    token = second.json()["refresh_token"]
    for headers in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": token}):
        assert desk.get("/llm-keys", headers=headers).status_code == 401
    assert_dead(desk, second.json()["access_token"])
    # Another client's wish to revoke it is answered like any other, and does nothing.
    answer = requests.post(
        f"{desk.url}/revoke", data={"token": token}, auth=(machine["client_id"], machine["client_secret"]), timeout=30
    )
    assert answer.status_code == 200
    assert refresh(requests, desk, token).status_code == 200


def test_after_a_crash_spent_tokens_stay_spent(new_desk):
    desk = new_desk().start()
    user = add_user(desk)
    tokens = [session_of(desk, user)]
    for _ in range(4):
        tokens.append(refresh(requests, desk, tokens[-1]["refresh_token"]).json())
    revoked = session_of(desk, user)
    assert revoke(requests, desk, revoked["refresh_token"]).status_code == 200
    single = session_of(desk, user)
    assert revoke(requests, desk, single["access_token"]).status_code == 200
    desk.kill()
    desk.start()
    # The newest works, and its session's access tokens; what was revoked is.
    newest = refresh(requests, desk, tokens[-1]["refresh_token"])
    assert newest.status_code == 200, newest.text
    assert keys_status(desk, tokens[0]["access_token"]) == 200
    assert_dead(desk, revoked["refresh_token"])
    assert [keys_status(desk, token["access_token"]) for token in (revoked, single)] == [401, 401]
    # An older one is an attack now as it was before.
    assert_dead(desk, tokens[1]["refresh_token"], newest.json()["refresh_token"])
    assert eventually(lambda: keys_status(desk, newest.json()["access_token"]) == 401)
    assert desk.stop() == 0


def test_failures_are_counted_across_a_crash(new_desk):
    desk = new_desk().start()
    name, password = add_user(desk)
    source = fresh_source()
    assert [login(desk, name, WRONG, source).status for _ in range(4)] == [400] * 4
    desk.kill()
    desk.start()
    assert [login(desk, name, WRONG, source).status for _ in range(2)] == [400, 429]
    assert login(desk, name, password, source).status == 429
    # And so is the address, whoever it was for.
    sprayed = [login(desk, f"nobody-{number}", WRONG, source).status for number in range(24)]
    desk.kill()
    desk.start()
    sprayed += [login(desk, f"nobody-more-{number}", WRONG, source).status for number in range(4)]
    assert sprayed == [400] * 25 + [429] * 3
    assert login(desk, name, password).status == 200
    assert desk.stop() == 0
