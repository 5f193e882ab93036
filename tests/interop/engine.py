"""The engine that the desks of this run have: SQLite, or PostgreSQL when `scripts/with-postgres` has started a server for it.
There every desk has a new database of its own, which it opens as its owner; whoever looks into it or forges it is a superuser.
The databases go with the server: to drop one at a time would be a checkpoint of the server's each time.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import sqlite3
import subprocess

SERVER = os.environ.get("KEYDESK_TEST_POSTGRES")
ON_POSTGRES = SERVER is not None
PASSWORD = SERVER.rpartition("@")[0].rpartition(":")[2] if ON_POSTGRES else None


def url(database, role="keydesk"):
    return f"{SERVER.replace('://postgres', f'://{role}', 1)}/{database}"


def new_database(like="template1"):
    """The name of a new database; of a copy, if nobody has the original open."""
    name = f"interop_{secrets.token_hex(6)}"
    with connect("postgres") as connection:
        connection.execute(f"create database {name} template {like} owner keydesk")
    return name


def dump(database, path):
    """All that is in a database, as text."""
    directories = [str(path) for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin")]
    program = shutil.which("pg_dump", path=os.pathsep.join([os.environ["PATH"], *directories]))
    done = subprocess.run([program, "--dbname", url(database, "postgres"), "--file", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Row(tuple):
    """A row whose values have names, too."""

    def keys(self):
        return self.names

    def __getitem__(self, key):
        return tuple.__getitem__(self, self.names.index(key) if isinstance(key, str) else key)

    @classmethod
    def maker(cls, columns):
        return type("Row", (cls,), {"names": [column[0] for column in columns or ()]})


class Connection:
    """A connection to either, with places as SQLite has them: `?` and `:name`. Every statement stands for itself."""

    def __init__(self, place):
        if isinstance(place, pathlib.Path):
            self.connection = sqlite3.connect(place, isolation_level=None, timeout=10, check_same_thread=False)
            self.connection.row_factory = lambda cursor, row: Row.maker(cursor.description)(row)
        else:
            import psycopg

            self.connection = psycopg.connect(
                url(place, "postgres"), autocommit=True, row_factory=lambda cursor: Row.maker(cursor.description))

    def execute(self, sql, parameters=None):
        if ON_POSTGRES and parameters:
            sql = re.sub(r"(?<!:):(\w+)", r"%(\1)s", sql.replace("%", "%%").replace("?", "%s"))
        return self.connection.execute(sql, *([parameters] if parameters else []))

    def close(self):
        self.connection.close()


def connect(place):
    """A connection to an SQLite file, or to the database of this name."""
    return contextlib.closing(Connection(place))


def without_rules(connection):
    """Nothing that the database would do by itself is done on this connection. Returns how to put it back as it was."""
    if ON_POSTGRES:
        connection.execute("set session_replication_role = replica")
        return []
    rules = connection.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
    for name, _ in rules:
        connection.execute(f"drop trigger {name}")
    return [sql for _, sql in rules]


def drop_rule(name):
    return f"drop trigger {name}" + " on audit_events" * ON_POSTGRES


def refusal():
    """What is raised when a rule of the database forbids something."""
    if ON_POSTGRES:
        import psycopg

        return psycopg.errors.RaiseException
    return sqlite3.IntegrityError


REFUSED = refusal()
# How every change begins: one process at a time.
BEGIN = "begin; select pg_advisory_xact_lock(1801680235, 1)" if ON_POSTGRES else "begin immediate"
