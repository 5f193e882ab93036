"""Many principals at once, written into the database of a desk that is stopped.

Through the product a hundred thousand would take hours, each with an event of its own on the disk. What the desk stores of an
API key is its SHA-256, so that the keys can be made here. These principals are not in the book.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
import zlib

from wrk import Request

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base62(number, width):
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def token(kind):
    """As the desk makes them: `ak` for API keys, `cs` for client secrets; 256 random bits and a checksum."""
    text = f"kd_{kind}_" + base62(secrets.randbits(256), 43)
    return text + base62(zlib.crc32(text.encode()), 6)


def principals(database, count):
    """Makes service accounts with a grant and an API key each; returns a read with each of the keys."""
    now, keys = time.time_ns() // 1000, [token("ak") for _ in range(count)]
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        project = db.execute("select id from projects where name = 'default'").fetchone()[0]
        for number, key in enumerate(keys):
            principal = os.urandom(16)
            db.execute("insert into principals (id, kind, name, role, created_at) values (?, 'service_account', ?, 'member', ?)",
                       (principal, f"seeded-{number}", now))
            db.execute("insert into grants (principal_id, project_id, created_at) values (?, ?, ?)", (principal, project, now))
            db.execute("insert into api_keys (id, principal_id, label, digest, imported, created_at) values (?, ?, ?, ?, 0, ?)",
                       (os.urandom(16), principal, "seeded", hashlib.sha256(key.encode()).digest(), now))
        db.execute("update revision set value = value + 1")
    return [Request("/llm-keys", (("X-API-Key", key),)) for key in keys]
