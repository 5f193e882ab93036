"""A desk on PostgreSQL with many users, sessions and events: key reads by everybody, at an even pace.

2 000 users, 20 000 refresh tokens and 100 000 events; 100 000, 1 000 000 and 5 000 000 in the full form. How long the reads took
is printed. That no query goes through a whole table is asked elsewhere, of the statements themselves.
"""

import asyncio
import hashlib
import os
import random
import time

import pytest

import engine
from conftest import FULL, seed
from load import Connection

pytestmark = pytest.mark.skipif(not engine.ON_POSTGRES, reason="is about PostgreSQL")

USERS, TOKENS, EVENTS = (100_000, 1_000_000, 5_000_000) if FULL else (2_000, 20_000, 100_000)
RATE, SECONDS, CONNECTIONS = 200, 30 if FULL else 5, 16

SESSIONS = """
    insert into token_families (id, principal_id, client_id, scope, generation, created_at, created_source, idle_expires_at, expires_at)
        select decode(lpad(to_hex(n), 32, '0'), 'hex'), p.id, 'keydesk', 'llm-keys:read', 5, {now}, '192.0.2.1', {later}, {later}
        from generate_series(1, {tokens} / 5) n
        join (select id, row_number() over () as place from principals) p on p.place = 1 + n % {users};
    insert into refresh_tokens (digest, family_id, generation)
        select sha256(n::text::bytea), decode(lpad(to_hex(1 + (n - 1) / 5), 32, '0'), 'hex'), 1 + (n - 1) % 5
        from generate_series(1, {tokens} / 5 * 5) n;
"""
BOOK = """
    insert into audit_events (id, stream, seq, at, action, outcome, actor, principal_id, principal_kind, credential, object, version,
                              source, request_id, mac)
        select decode(lpad(to_hex(n), 32, '0'), 'hex'), '\\x{stream}', n, {now} - ({events} - n)::bigint * 1000000, 'llm_keys.read', 'allowed',
               p.name, p.id, p.kind, 'api_key', 'project:default', 'openai=1', '192.0.2.1', 'req_' || n, sha256(n::text::bytea)
        from generate_series(1, {events}) n
        join (select id, name, kind, row_number() over () as place from principals) p on p.place = 1 + n % {users};
"""


def fill(desk):
    """Returns the API keys of the users."""
    now, keys = time.time_ns() // 1000, [seed.token("ak") for _ in range(USERS)]
    users = [os.urandom(16) for _ in keys]

    def copy(into, rows):
        with connection.connection.cursor().copy(f"copy {into} from stdin") as copying:
            for row in rows:
                copying.write_row(row)

    with desk.connect() as connection:
        project = connection.execute("select id from projects where name = 'default'").fetchone()[0]
        copy("principals (id, kind, name, role, created_at)",
             ((user, "service_account", f"seeded-{number}", "member", now) for number, user in enumerate(users)))
        copy("grants (principal_id, project_id, created_at)", ((user, project, now) for user in users))
        copy("api_keys (id, principal_id, label, digest, imported, created_at)",
             ((os.urandom(16), user, "seeded", hashlib.sha256(key.encode()).digest(), 0, now) for user, key in zip(users, keys)))
        connection.execute((SESSIONS + BOOK).format(
            now=now, later=now + 86_400_000_000, users=USERS, tokens=TOKENS, events=EVENTS, stream=os.urandom(16).hex()))
        connection.execute("update revision set value = value + 1; analyze;")
    return keys


async def read_evenly(port, keys):
    """The seconds that each read took from the moment at which it was due."""
    due, took = iter(range(RATE * SECONDS)), []
    begun = time.monotonic() + 0.1

    async def some():
        connection = Connection(port, "127.0.0.1")
        for number in due:
            moment = begun + number / RATE
            await asyncio.sleep(max(0, moment - time.monotonic()))
            status, _, body = await connection.ask("GET", "/llm-keys", {"X-API-Key": random.choice(keys)})
            assert status == 200, body
            took.append(time.monotonic() - moment)
        connection.close()

    await asyncio.gather(*(some() for _ in range(CONNECTIONS)))
    return sorted(took)


def test_everybody_reads_at_an_even_pace(new_desk):
    desk = new_desk(RUST_LOG="info").start()
    keys = fill(desk)
    took = asyncio.run(read_evenly(desk.port, keys))
    assert len(took) == RATE * SECONDS
    half, last = (1000 * took[int(len(took) * share)] for share in (0.5, 0.99))
    print(f"{USERS} users, {TOKENS} refresh tokens, {EVENTS} events, {RATE} reads/s: p50 {half:.1f} ms, p99 {last:.1f} ms", flush=True)
    assert desk.stop() == 0
