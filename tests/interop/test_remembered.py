"""What the desk remembers between requests: that it is asked for once, that one change costs one look each, and that nothing
is taken for something else because it looks like it.

10 000 principals and 20 providers; of the principals 1 000 are seen, or all in the full form.
"""

import asyncio
import collections
import json
import random
import secrets
import string
import threading
import time

import pytest
import requests

from conftest import FULL, PASSWORD, seed
from gauges import Gauges
from load import Connection

PRINCIPALS, SEEN, PROVIDERS = 10_000, 10_000 if FULL else 1_000, 20
CONNECTIONS = 32
CROWD, EACH = 12, 8  # readers, and how many connections each of them has


@pytest.fixture(scope="module")
def crowded(new_desk):
    """A desk with that many principals, its numbers, and the headers of those who will ask."""
    desk = new_desk(RUST_LOG="info")
    gauges = Gauges(desk)
    desk.start()
    admin = administrator(desk)
    for number in range(PROVIDERS - len(desk.keys)):
        set_key(desk, admin, f"provider-{number}", f"sk-CANARY{number:030}")
    assert desk.stop() == 0
    seeded = seed.principals(desk.data / "keydesk.db", PRINCIPALS)
    desk.start()
    gauges.started = time.monotonic()
    yield desk, gauges, [dict(request.headers) for request in random.sample(seeded, SEEN)]
    assert desk.stop() == 0


def administrator(desk):
    return {"Authorization": f"Bearer {desk.login('admin', PASSWORD, scope='llm-keys:write')}", "Content-Type": "application/json"}


def set_key(desk, admin, provider, key):
    async def put():
        status, _, body = await Connection(desk.port, "127.0.0.1").ask(
            "PUT", f"/admin/projects/default/keys/{provider}", admin, json.dumps({"key": key}).encode())
        assert status in (200, 201), body

    asyncio.run(put())


async def read(connection, headers):
    status, _, body = await connection.ask("GET", "/llm-keys", headers)
    assert status == 200, body
    keys = json.loads(body)
    assert len(keys) == PROVIDERS
    return keys


def read_each(desk, readers):
    """Everybody reads once, over a few connections."""
    left = list(readers)

    async def some():
        connection = Connection(desk.port, "127.0.0.1")
        while left:
            await read(connection, left.pop())
        connection.close()

    async def all_of_them():
        await asyncio.gather(*(some() for _ in range(CONNECTIONS)))

    asyncio.run(all_of_them())


def looks(gauges):
    """How often somebody was looked up, and how often keys were opened: besides once a minute, when they are forgotten."""
    minutes = int((time.monotonic() - gauges.started) // 60)
    return collections.Counter(asker=gauges.looks("asker"), handout=gauges.looks("handout") - minutes)


@pytest.mark.sqlite("its principals are written into the file")
def test_who_was_there_is_known_and_one_change_costs_one_look_each(crowded):
    desk, gauges, readers = crowded
    before = looks(gauges)
    read_each(desk, readers)
    # All have the same grant, and so the same keys.
    assert looks(gauges) - before == {"asker": SEEN, "handout": 1}
    warm = looks(gauges)
    read_each(desk, readers)
    assert looks(gauges) == warm, "nothing is looked up for those who were there"

    # A crowd reads all the while, many connections with one credential, and somebody sets a key.
    admin, crowd, new = administrator(desk), readers[:CROWD], f"sk-proj-CANARY{random.randbytes(20).hex()}"
    over, got = asyncio.Event(), collections.Counter()

    async def keep_reading(headers):
        connection = Connection(desk.port, "127.0.0.1")
        while not over.is_set():
            keys = await read(connection, headers)
            got[keys["openai"] == new] += 1
        connection.close()

    async def change():
        try:
            while got[False] < 5 * CROWD * EACH:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(set_key, desk, admin, "openai", new)
            answered = got[False]
            while got[True] < 5 * CROWD * EACH:
                await asyncio.sleep(0.01)
            # Those who had their answer already, and not yet read it.
            assert got[False] - answered <= CROWD * EACH
        finally:
            over.set()

    async def all_of_them():
        await asyncio.gather(change(), *(keep_reading(headers) for headers in crowd for _ in range(EACH)))

    asyncio.run(all_of_them())
    grown = looks(gauges) - warm
    # Who set the key was looked up, too, before that.
    assert grown["asker"] <= CROWD + 1 and grown["handout"] == 1, grown
    read_each(desk, readers)
    assert looks(gauges) - warm == {"asker": SEEN + 1, "handout": 1}
    asyncio.run(all_have(desk, readers[:CONNECTIONS], new))


async def all_have(desk, readers, key):
    for headers in readers:
        assert (await read(Connection(desk.port, "127.0.0.1"), headers))["openai"] == key


@pytest.fixture(scope="module")
def warm(desk):
    """Credentials that the desk knows by heart."""
    made = {
        "access token": desk.login("admin", PASSWORD),
        "API key": desk.cli_json("api-key", "add", "admin")["api_key"],
        "imported API key": desk.service_api_key,
    }
    for credential in made.values():
        assert [status(desk, bearer(credential)) for _ in range(3)] == [200] * 3
    return made


def status(desk, headers):
    answer = desk.get("/llm-keys", headers=headers)
    if answer.status_code == 401:
        assert 'error="invalid_token"' in answer.headers["www-authenticate"] and "CANARY" not in answer.text
    return answer.status_code


def bearer(credential):
    return {"Authorization": f"Bearer {credential}"}


def alike(credential):
    """Others that have much in common with it. Each is as long, or all but."""
    letters = string.ascii_letters + string.digits
    junk = "".join(random.choices(letters, k=len(credential)))
    for shared in (20, 100, len(credential) // 2):
        if shared < len(credential):
            yield credential[:shared] + junk[shared:]
    # Whatever the last character: the last bits of a signature in base64 mean nothing, and are to be zero all the same.
    yield from (credential[:-1] + letter for letter in letters + "-_" if letter != credential[-1])
    yield from (credential[:-1], credential + "A", credential + "=", credential.swapcase())
    middle = len(credential) // 2
    yield credential[:middle] + random.choice(letters.replace(credential[middle], "")) + credential[middle + 1:]


@pytest.mark.parametrize("kind", ["access token", "API key", "imported API key"])
def test_what_resembles_a_credential_that_is_known_is_another(desk, warm, kind):
    known = warm[kind]
    for other in set(alike(known)) - {known}:
        assert status(desk, bearer(other)) == 401, "it shares a beginning with one that is known"
        if kind != "access token":
            assert status(desk, {"X-API-Key": other}) == 401
    # A key of our own form, with a checksum that is right.
    if kind == "API key":
        text = known[:30] + seed.token("ak")[30:-6]
        forged = text + seed.base62(seed.zlib.crc32(text.encode()), 6)
        assert [status(desk, headers) for headers in (bearer(forged), {"X-API-Key": forged})] == [401, 401]
    assert status(desk, bearer(known)) == 200


def test_what_is_known_is_known_as_what_it_is(desk, warm):
    """Where it is shown in another way than when it came to be known, the rules are the same."""
    token, *keys = warm.values()
    for _ in range(2):
        assert status(desk, {"X-API-Key": token}) == 401, "an access token is not an API key"
        assert status(desk, bearer(token)) == 200
        for key in keys:
            assert [status(desk, {"X-API-Key": key}), status(desk, bearer(key))] == [200, 200]
            assert status(desk, {**bearer(key), "X-Service-Account": "somebody-else"}) == 401
    # And the other way round: refused first, and then shown as what it is.
    fresh = desk.login("admin", PASSWORD)
    assert [status(desk, {"X-API-Key": fresh}), status(desk, bearer(fresh)), status(desk, {"X-API-Key": fresh})] == [401, 200, 401]


def test_where_there_is_always_another_change_keys_are_handed_out(desk):
    """What was decided before a change is decided again: not for ever, however many changes wait for their turn."""
    over, refused = threading.Event(), []

    def change(number):
        admin = administrator(desk)
        while not over.is_set():
            set_key(desk, admin, f"provider-{number}", f"sk-{secrets.token_hex(20)}")

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        with requests.Session() as session:
            for _ in range(100):
                answer = session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=30)
                if answer.status_code != 200:
                    refused.append(answer.text)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not refused, (len(refused), refused[0])
