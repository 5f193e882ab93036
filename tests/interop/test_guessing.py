"""Passwords cannot be guessed by trying, and who tries locks nobody out."""

import concurrent.futures
import datetime
import json
import secrets
import socket
import threading
import time
import urllib.parse

import pytest

from sources import Client, fresh_source, login

WRONG = "a wrong password it is"
# What is promised: free failures of one user from one address; failures of one address; failures of one user.
PAIR, SOURCE, ACCOUNT = 5, 30, 30
# So many at once that the hashing queue is full now and then, not always.
CROWD = 36


def add_user(desk, name=None):
    name = name or f"u-{secrets.token_hex(5)}"
    password = f"{secrets.token_hex(10)} is the word"
    desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password + "\n")
    return name, password


def add_users(desk, count):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: add_user(desk), range(count)))


@pytest.fixture(scope="module")
def somebody(desk):
    """A user whose failures nothing else here counts."""
    return lambda: add_user(desk)


def book(desk, since, **wanted):
    """The events since a moment, oldest first."""
    events = desk.cli_json("audit", "list", "--limit", "5000")
    found = [event for event in events if moment(event) >= since and all(event[key] == value for key, value in wanted.items())]
    return sorted(found, key=moment)


def moment(event):
    return datetime.datetime.fromisoformat(event["at"]).timestamp()


def assert_no_more_than_allowed(checked):
    """`checked`: when a password was looked at. Five, then one after each wait, which doubles."""
    for number, at in enumerate(checked[PAIR:]):
        wait = min(2 ** number, 900)
        # The count is made before the password is looked at and the event after it: the events may be closer together.
        assert at - checked[PAIR + number - 1] > 0.8 * wait - 0.2, (number, checked)


def test_one_address_guesses_one_user(desk, somebody):
    name, password = somebody()
    begun = time.time()
    with Client(desk) as client:
        replies = [client.login(name, WRONG) for _ in range(50)]
        assert [reply.status for reply in replies[:PAIR]] == [400] * PAIR
        assert replies[PAIR].status == 429
        assert {reply.status for reply in replies[PAIR:]} <= {429, 400}
        for reply in replies:
            if reply.status == 429:
                assert reply.retry_after <= 900
                assert reply.header("cache-control") == "no-store"
        checked = [moment(event) for event in book(desk, begun, actor=name, reason="wrong_password")]
        assert PAIR <= len(checked) <= PAIR + 4
        assert_no_more_than_allowed(checked)

        # What is right now is refused as well, as long as it says; then it is let in, and the count is forgotten.
        refused = client.login(name, password)
        assert refused.status == 429
        wait = refused.retry_after
        assert 1 <= wait <= 64
        time.sleep(wait)
        assert client.login(name, password).status == 200
        assert [client.login(name, WRONG).status for _ in range(PAIR)] == [400] * PAIR
    # A login from elsewhere never noticed.
    assert login(desk, name, password).status == 200


def test_the_wait_doubles(desk, somebody):
    name, _ = somebody()
    with Client(desk) as client:
        for _ in range(PAIR):
            assert client.login(name, WRONG).status == 400
        waits = []
        for _ in range(3):
            refused = client.login(name, WRONG)
            assert refused.status == 429
            waits.append(refused.retry_after)
            time.sleep(refused.retry_after)
            assert client.login(name, WRONG).status == 400
        assert waits == sorted(waits) and waits[-1] >= 3, waits


def test_one_address_sprays_many_users(desk, somebody):
    name, password = somebody()
    begun = time.time()
    with Client(desk) as client:
        replies = [client.login(f"sprayed-{number}", "the most common password") for number in range(199)]
        statuses = [reply.status for reply in replies]
        assert statuses == [400] * SOURCE + [429] * (199 - SOURCE)
        for reply in replies[SOURCE:]:
            assert 600 < reply.retry_after <= 900
        # Whoever it is for, and right or wrong.
        assert client.login(name, password).status == 429
        source = client.source
    assert len(book(desk, begun, source=source, reason="unknown_user")) == SOURCE
    # An address that is closed for passwords still fetches keys, and another one still logs in.
    reply = login(desk, name, password)
    assert reply.status == 200
    with Client(desk, source) as client:
        bearer = {"Authorization": f"Bearer {reply.json()['access_token']}"}
        assert client.request("GET", "/llm-keys", **bearer).status == 200


def test_many_addresses_guess_one_user_who_goes_on(desk, somebody):
    name, password = somebody()
    usual = fresh_source()
    first = login(desk, name, password, usual).json()
    api_key = desk.cli_json("api-key", "add", name)["api_key"]

    statuses = [login(desk, name, WRONG).status for _ in range(ACCOUNT + 10)]
    # The one that got through was counted as none: it was right.
    assert statuses == [400] * ACCOUNT + [429] * 10
    # From an address that this user never came from, not even the right password.
    stranger = login(desk, name, password)
    assert stranger.status == 429 and stranger.retry_after <= 900
    # From the usual one all goes on: logging in, and a mistyped password or two.
    with Client(desk, usual) as client:
        for typed, status in [(password, 200), (WRONG, 400), (WRONG, 400), (password, 200)]:
            assert client.login(name, typed).status == status
    # And from anywhere what was held before.
    with Client(desk) as client:
        refreshed = client.token(grant_type="refresh_token", refresh_token=first["refresh_token"])
        assert refreshed.status == 200, refreshed.body
        for token in (first["access_token"], refreshed.json()["access_token"], api_key):
            assert client.request("GET", "/llm-keys", Authorization=f"Bearer {token}").status == 200
        assert client.request("GET", "/llm-keys", **{"X-API-Key": api_key}).status == 200


def comparable(reply):
    """All of a reply but what differs between any two."""
    varying = ("x-request-id", "date", "retry-after")
    return reply.status, reply.body, [(name, None if name in varying else value) for name, value in reply.headers]


def test_an_unknown_name_is_answered_like_a_known_one(desk, somebody):
    """The same statuses, headers in the same order, and bodies: wrong password, disabled, expired, unknown, malformed."""
    wrong, _ = somebody()
    disabled, right = somebody()
    desk.cli("user", "disable", disabled)
    reset, _ = somebody()
    desk.cli("user", "reset-password", reset)
    tried = {
        "wrong": (wrong, WRONG), "disabled, wrong password": (disabled, WRONG), "disabled, right password": (disabled, right),
        "one-time": (reset, WRONG), "unknown": (f"nobody-{secrets.token_hex(4)}", WRONG),
        "a service account": ("default", WRONG), "malformed": ("no such\u200bname!", WRONG),
    }
    clients = {kind: Client(desk) for kind in tried}
    answers = {kind: [] for kind in tried}
    for _ in range(12):
        for kind, (name, password) in tried.items():
            answers[kind].append(clients[kind].login(name, password))
    for client in clients.values():
        client.connection.close()
    expected = [comparable(reply) for reply in answers["wrong"]]
    assert [reply.status for reply in answers["wrong"]] == [400] * PAIR + [429] * (12 - PAIR)
    for kind, replies in answers.items():
        if kind == "malformed":  # nobody can have that name, so nothing has to be hidden; the first answer is the same
            assert comparable(replies[0]) == expected[0]
            continue
        assert [comparable(reply) for reply in replies] == expected, kind
        waits = [(reply.retry_after, other.retry_after) for reply, other in zip(replies, answers["wrong"]) if reply.status == 429]
        assert all(abs(one - other) <= 1 for one, other in waits), (kind, waits)


def test_the_many_unknown_names_of_a_closed_account_are_alike_too(desk):
    """After thirty failures from everywhere, a name that nobody has is closed to strangers like a name that somebody has."""
    nobody = f"nobody-{secrets.token_hex(4)}"
    assert [login(desk, nobody, WRONG).status for _ in range(ACCOUNT + 2)] == [400] * ACCOUNT + [429] * 2


def test_other_spellings_of_a_name_are_no_way_around(desk, somebody):
    name, _ = somebody()
    spellings = [name.upper(), name.capitalize(), f" {name}", f"{name} ", name.swapcase(), name.replace("u", "ｕ"), name]
    begun = time.time()
    with Client(desk) as client:
        statuses = [client.login(spelling, WRONG).status for spelling in spellings * 2]
    assert set(statuses) <= {400, 429}
    assert len(book(desk, begun, actor=name, reason="wrong_password")) <= PAIR


def raw_login(desk, username, password):
    body = urllib.parse.urlencode({"grant_type": "password", "username": username, "password": password}).encode()
    head = (
        f"POST /token HTTP/1.1\r\nHost: 127.0.0.1:{desk.port}\r\nConnection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def status_of(connection):
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return int(answer.split(b" ", 2)[1])


def test_two_hundred_guesses_at_once_are_five(desk, somebody):
    """All are on their way before the first is answered; the right one is the 150th."""
    name, password = somebody()
    source = fresh_source()
    guesses = [raw_login(desk, name, password if number == 150 else f"{WRONG} {number}") for number in range(1, 201)]
    connections = []
    for _ in guesses:
        connections.append(socket.create_connection(("127.0.0.1", desk.port), 60, (source, 0)))
    begun = time.time()
    for connection, guess in zip(connections, guesses):
        connection.sendall(guess)
    statuses = [status_of(connection) for connection in connections]
    for connection in connections:
        connection.close()
    assert statuses[149] == 429
    # 503: the hashing queue was full, and nothing was looked at.
    assert set(statuses) <= {400, 429, 503}, statuses
    checked = [moment(event) for event in book(desk, begun, actor=name, reason="wrong_password")]
    assert statuses.count(400) == len(checked)
    assert PAIR <= len(checked) <= PAIR + 3
    assert_no_more_than_allowed(checked)


def at_once(work, items):
    """Runs `work` on every item, all let go at the same moment."""
    barrier = threading.Barrier(len(items))

    def run(item):
        barrier.wait()
        return work(item)

    with concurrent.futures.ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(run, items))


def assert_not_punished(replies):
    assert {reply.status for reply in replies} <= {200, 503}, [reply.status for reply in replies]
    for reply in replies:
        if reply.status == 503:
            assert reply.retry_after <= 5
    assert sum(reply.status == 200 for reply in replies) >= 5


def test_a_hundred_right_logins_of_one_user_are_not_punished(desk, somebody):
    name, password = somebody()
    source = fresh_source()
    assert_not_punished(at_once(lambda _: login(desk, name, password, source), range(100)))
    assert login(desk, name, password, source).status == 200


def test_right_logins_of_many_users_at_one_address_are_not_punished(desk):
    """An office behind one address, more people than an address has failures."""
    people = add_users(desk, SOURCE + 15)
    source = fresh_source()
    everybody = (people * 3)[:100]
    assert_not_punished(at_once(lambda user: login(desk, *user, source), everybody))
    assert login(desk, *people[0], source).status == 200


def test_an_overload_does_not_make_guesses_free(desk, somebody):
    """While the hashing queue is full nobody's password is looked at, and no failure is forgotten either."""
    name, _ = somebody()
    source = fresh_source()
    done = threading.Event()

    def flood(number):
        while not done.is_set():
            with Client(desk) as client:
                client.login(f"flood-{number}-{secrets.token_hex(4)}", WRONG)

    crowd = [threading.Thread(target=flood, args=(number,)) for number in range(CROWD)]
    begun = time.time()
    for thread in crowd:
        thread.start()
    try:
        statuses = []
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            statuses.append(login(desk, name, WRONG, source).status)
    finally:
        done.set()
        for thread in crowd:
            thread.join()
    assert set(statuses) <= {400, 429, 503}
    checked = [moment(event) for event in book(desk, begun, actor=name, reason="wrong_password")]
    assert len(checked) == statuses.count(400)
    assert_no_more_than_allowed(checked)


def test_client_secrets_cannot_be_guessed_either(desk):
    """Twenty failures a minute from one address; the machine itself, elsewhere, goes on."""
    account = desk.cli_json("service-account", "add", f"m-{secrets.token_hex(4)}", "--project", "default")
    right = {"grant_type": "client_credentials", "client_id": account["client_id"], "client_secret": account["client_secret"]}
    wrong = right | {"client_secret": account["client_secret"][:-1] + "!"}
    with Client(desk) as client:
        statuses = [client.token(**wrong).status for _ in range(25)]
        assert statuses == [401] * 20 + [429] * 5
        # The same count wherever a client authenticates.
        for path in ("/introspect", "/revoke"):
            assert client.form(path, token="x", **{k: wrong[k] for k in ("client_id", "client_secret")}).status == 429
    with Client(desk) as client:
        assert client.token(**right).status == 200


def test_changing_a_password_is_no_way_around(desk, somebody):
    """`PUT /me/password` asks for the old one: it is counted with the logins."""
    name, password = somebody()
    with Client(desk) as client:
        token = client.login(name, password).json()["access_token"]

        def change(typed):
            text = json.dumps({"old_password": typed, "new_password": "a quite different password"})
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            return client.request("PUT", "/me/password", text.encode(), **headers).status

        assert [change(WRONG) for _ in range(3)] == [409] * 3
        assert [client.login(name, WRONG).status for _ in range(2)] == [400] * 2
        assert change(password) == 429
        assert client.login(name, password).status == 429
        # The token that they hold goes on.
        assert client.request("GET", "/llm-keys", Authorization=f"Bearer {token}").status == 200
