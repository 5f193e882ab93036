"""Somebody who has the database, and all the time in the world, but not the key-encryption key: whatever they do to the book,
`keydesk audit verify` finds it and names it."""

import base64
import contextlib
import json
import shutil
import sqlite3
import subprocess
import threading
import uuid

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import audit_chain
import engine
from conftest import BINARY, ROOT


class Book:
    """The data of a desk that is not served: its directory, and its database on a server if it is there."""

    def __init__(self, home, database=None):
        self.home, self.data = home, home / "keydesk-data"
        self.database, self.checkpoints = database or self.data / "keydesk.db", self.data / "audit.checkpoints"

    @classmethod
    def of(cls, desk):
        return cls(desk.home, desk.database)

    def copy(self, home):
        shutil.copytree(self.data, home / "keydesk-data")
        return Book(home, engine.new_database(self.database) if engine.ON_POSTGRES else None)

    def take_database(self, other):
        """That of another copy in place of its own."""
        if engine.ON_POSTGRES:
            self.database = engine.new_database(other.database)
            return
        for suffix in ("", "-wal", "-shm"):
            self.database.with_name(f"keydesk.db{suffix}").unlink(missing_ok=True)
        shutil.copy(other.database, self.database)

    def run(self, *arguments):
        env = {"PATH": "/usr/bin:/bin"} | ({"DATABASE_URL": engine.url(self.database)} if engine.ON_POSTGRES else {})
        return subprocess.run([BINARY, *arguments], cwd=self.home, env=env, capture_output=True, text=True, timeout=120)

    def report(self, *arguments):
        """What `audit verify` finds, and that its exit status says the same."""
        done = self.run("audit", "verify", "--json", *arguments)
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["whole"] else 1), done
        if not report["whole"]:
            # Before it, the log may say that the head of a stream was forged.
            line = done.stderr.splitlines()[-1]
            assert line.startswith("keydesk: the book is not whole: ") and report["faults"][0]["what"] in line
        return report

    def fault(self, *arguments):
        """The first fault of a book that has one."""
        report = self.report(*arguments)
        assert not report["whole"], "the forgery was not found"
        return report["faults"][0]

    @contextlib.contextmanager
    def forging(self):
        """SQL without the triggers that keep honest programs from it."""
        with engine.connect(self.database) as connection:
            rules = engine.without_rules(connection)
            yield connection
            for rule in rules:
                connection.execute(rule)

    def lines(self):
        return self.checkpoints.read_text().splitlines()

    def write_lines(self, lines):
        self.checkpoints.write_text("".join(f"{line}\n" for line in lines))


class Forgers:
    """What the tests know of the book they start from."""

    def __init__(self, whole, older, stream, length):
        self.whole, self.older, self.stream, self.length = whole, older, stream, length


@pytest.fixture(scope="module")
def original(new_desk, tmp_path_factory):
    desk = new_desk().start()
    read = lambda: desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key})
    for _ in range(3):
        assert read().status_code == 200
    desk.cli("project", "add", "early")
    assert desk.stop() == 0
    whole = Book.of(desk)
    older = whole.copy(tmp_path_factory.mktemp("older"))
    desk.start()
    for number in range(20):
        assert read().status_code == 200
        if number % 7 == 0:
            desk.cli("project", "add", f"p{number}")
    assert desk.stop() == 0
    with engine.connect(whole.database) as connection:
        stream, length = connection.execute(
            "select stream, max(seq) from audit_events group by stream order by 2 desc limit 1"
        ).fetchone()
    assert length >= 20
    return Forgers(whole, older, stream, length)


@pytest.fixture
def book(original, tmp_path):
    return original.whole.copy(tmp_path)


def name(stream):
    return str(uuid.UUID(bytes=bytes(stream)))


def put_head(connection, stream):
    """What a forger can do about the head of a stream: all but its seal."""
    seq, mac = connection.execute(
        "select seq, mac from audit_events where stream = ? order by seq desc limit 1", (stream,)
    ).fetchone()
    connection.execute("update audit_streams set seq = ?, mac = ? where stream = ?", (seq, mac, stream))


def renumber(connection, stream, above, by):
    """Moves the events above a number, one after the other, because no two may have the same number at any moment."""
    rows = connection.execute("select id, seq from audit_events where stream = ? and seq > ? order by seq", (stream, above)).fetchall()
    for row in reversed(rows) if by > 0 else rows:
        connection.execute("update audit_events set seq = ? where id = ?", (row["seq"] + by, row["id"]))


def test_a_book_that_nobody_touched_is_whole(original, book):
    report = book.report()
    assert report["whole"] and report["faults"] == [] and report["unprotected"] == 0
    assert report["checkpoint"] >= 2 and report["events"] >= original.length
    assert book.run("audit", "verify").stdout.startswith("the book is whole: ")


@pytest.mark.parametrize("column, value", [
    ("actor", "mallory"), ("at", 1), ("action", "admin.read"), ("outcome", "denied"), ("object", None), ("version", "openai=9"),
    ("detail", "x"), ("source", "192.0.2.1"), ("request_id", "req_x"), ("reason", "x"), ("client_id", "x"), ("credential", None),
    ("principal_id", b"\1" * 16), ("principal_id", b"short"), ("principal_kind", None), ("heads", "[]"), ("id", b"\2" * 16),
    ("mac", b"\3" * 32), ("mac", b"short"), ("mac", None),
])
def test_an_edited_column(original, book, column, value):
    with book.forging() as connection:
        connection.execute(f"update audit_events set {column} = ? where stream = ? and seq = 7", (value, original.stream))
    fault = book.fault()
    assert (fault["kind"], fault["stream"], fault["seq"]) == ("changed", name(original.stream), 7), fault


@pytest.mark.parametrize("first, last", [(1, 1), (1, 5), (7, 7), (7, 9)])
def test_deleted_at_the_beginning_or_in_the_middle(original, book, first, last):
    with book.forging() as connection:
        connection.execute("delete from audit_events where stream = ? and seq between ? and ?", (original.stream, first, last))
    fault = book.fault()
    assert (fault["kind"], fault["stream"], fault["seq"]) == ("missing", name(original.stream), last + 1)
    assert f"events {first} to {last} before it are missing" in fault["what"]


@pytest.mark.parametrize("count", [1, 2])
def test_deleted_and_the_rest_renumbered(original, book, count):
    with book.forging() as connection:
        connection.execute("delete from audit_events where stream = ? and seq between 7 and ?", (original.stream, 6 + count))
        renumber(connection, original.stream, 6 + count, -count)
        put_head(connection, original.stream)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("missing", 7), fault


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("head", [False, True])
def test_the_last_ones_deleted(original, book, count, head):
    with book.forging() as connection:
        connection.execute("delete from audit_events where stream = ? and seq > ?", (original.stream, original.length - count))
        if head:
            put_head(connection, original.stream)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("truncated", original.length - count + 1)
    assert "truncated behind checkpoint" in fault["what"]


def test_the_last_ones_deleted_and_every_checkpoint_with_them(original, book):
    """The head cannot be forged, and that there were checkpoints is known to the book."""
    copy = book.home / "elsewhere"
    shutil.copy(book.checkpoints, copy)
    book.checkpoints.unlink()
    with book.forging() as connection:
        connection.execute("delete from audit_events where stream = ? and seq > ?", (original.stream, original.length - 3))
        put_head(connection, original.stream)
    report = book.report()
    # Where several servers share a database, the rows of checkpoints stay.
    said = "truncated" if engine.ON_POSTGRES else "checkpoint"
    assert {fault["kind"] for fault in report["faults"]} == {said, "head"}
    with book.forging() as connection:
        connection.execute("delete from audit_checkpoints")
    assert book.fault()["kind"] == "head"
    fault = book.fault("--checkpoints", str(copy))
    assert fault["kind"] == "truncated", "the copy knows better"


def test_two_events_in_each_other_s_place(original, book):
    for i, j in ((7, 8), (9, 13)):
        with book.forging() as connection:
            one, other = (
                connection.execute("select id from audit_events where stream = ? and seq = ?", (original.stream, seq)).fetchone()[0]
                for seq in (i, j)
            )
            for seq, event in ((1_000_000, one), (i, other), (j, one)):
                connection.execute("update audit_events set seq = ? where id = ?", (seq, event))
        fault = book.fault()
        assert (fault["kind"], fault["seq"]) == ("moved", 7)
        assert "it was written as event 8" in fault["what"]


def copy_of(connection, original, number, **changes):
    row = dict(connection.execute("select * from audit_events where stream = ? and seq = ?", (original.stream, number)).fetchone())
    row.update(id=uuid.uuid4().bytes, **changes)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"insert into audit_events ({', '.join(row)}) values ({marks})", list(row.values()))


def test_an_event_twice(original, book):
    with book.forging() as connection:
        copy_of(connection, original, 7, seq=original.length + 1)
        put_head(connection, original.stream)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("copied", original.length + 1)
    assert "a copy of event 7" in fault["what"]


@pytest.mark.parametrize("seq", [1, 7])
def test_an_event_inserted(original, book, seq):
    with book.forging() as connection:
        renumber(connection, original.stream, seq - 1, 1)
        copy_of(connection, original, seq + 1, seq=seq, actor="mallory", mac=b"\7" * 32)
        put_head(connection, original.stream)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("inserted", seq), fault


def test_an_event_added_at_the_end(original, book):
    with book.forging() as connection:
        copy_of(connection, original, 7, seq=original.length + 1, mac=b"\7" * 32)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("inserted", original.length + 1)


def test_a_stream_made_up(original, book):
    with book.forging() as connection:
        stream = uuid.uuid4().bytes
        copy_of(connection, original, 7, stream=stream, seq=1, heads=None)
    fault = book.fault()
    assert (fault["stream"], fault["seq"]) == (name(stream), 1)


def test_an_event_moved_to_another_stream(original, book):
    with book.forging() as connection:
        other = connection.execute("select stream, max(seq) from audit_events where stream <> ? group by stream", (original.stream,)).fetchone()
        connection.execute("update audit_events set stream = ?, seq = ? where stream = ? and seq = ?",
                           (other[0], other[1] + 1, original.stream, original.length))
    assert not book.report()["whole"]


def test_an_edit_under_a_chain_of_plain_hashes(original, book):
    """Whoever knows the format but not the key."""
    with book.forging() as connection:
        connection.execute("update audit_events set actor = 'mallory' where stream = ? and seq = 7", (original.stream,))
        rows = connection.execute("select * from audit_events where stream = ? order by seq", (original.stream,)).fetchall()
        previous = rows[5]["mac"]
        for row in rows[6:]:
            previous = audit_chain.sha256(audit_chain.canonical(dict(row)) + previous)
            connection.execute("update audit_events set mac = ? where id = ?", (previous, row["id"]))
        put_head(connection, original.stream)
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("changed", 7)


@pytest.mark.parametrize("whole_book", [False, True])
def test_a_stream_dressed_up_as_older_than_the_chain(original, book, whole_book):
    which = "true" if whole_book else "stream = :stream"
    with book.forging() as connection:
        parameters = {} if whole_book else {"stream": original.stream}
        connection.execute(f"update audit_events set mac = null where {which}", parameters)
        connection.execute(f"update audit_events set actor = 'mallory' where {which} and seq = 7", parameters)
        connection.execute(f"update audit_streams set mac = null, seal = null, carried = 0 where {which}", parameters)
    assert not book.report()["whole"]
    # And nothing that the desk writes afterwards vouches for it.
    assert book.run("project", "add", "later").returncode == 0
    assert not book.report()["whole"]


def named(connection, book):
    """The events that a checkpoint or the first event of another stream names: their MACs cannot be touched unnoticed."""
    texts = [json.dumps(json.loads(base64.urlsafe_b64decode(line.split(".")[1] + "=="))["heads"]) for line in book.lines()]
    texts += [row[0] for row in connection.execute("select heads from audit_events where heads is not null")]
    return {(bytes.fromhex(head["stream"].replace("-", "")), head["seq"]) for text in texts for head in json.loads(text)}


def strip_macs(connection, book, which="true", **parameters):
    """Takes the MACs away from all events but the named ones, edits these, and returns the last of them."""
    kept = named(connection, book)
    rows = connection.execute(f"select id, stream, seq from audit_events where {which} order by seq", parameters).fetchall()
    stripped = [row for row in rows if (row["stream"], row["seq"]) not in kept]
    for row in stripped:
        connection.execute("update audit_events set mac = null, actor = 'mallory' where id = ?", (row["id"],))
    return stripped[-1]


def test_a_stream_that_calls_itself_and_another_older_than_the_chain(original, book):
    with book.forging() as connection:
        last = strip_macs(connection, book, "stream = :stream", stream=original.stream)
        liar = uuid.uuid4().bytes
        heads = [{"stream": name(liar), "seq": 1, "mac": None}, {"stream": name(original.stream), "seq": last["seq"], "mac": None}]
        copy_of(connection, original, 7, stream=liar, seq=1, mac=None, heads=json.dumps(heads))
        connection.execute("delete from audit_streams where stream = ?", (original.stream,))
    report = book.report()
    assert not report["whole"] and report["unprotected"] == 0
    assert {name(liar), name(original.stream)} <= {fault["stream"] for fault in report["faults"]}


@pytest.mark.parametrize("thorough", [False, True])
def test_a_book_that_looks_as_if_no_chain_had_begun(original, book, thorough):
    """With the checkpoint file as it is: the book itself says nothing any more of a chain."""
    with book.forging() as connection:
        strip_macs(connection, book)
        connection.execute("update audit_streams set mac = null, seal = null, carried = 0")
        if thorough:
            connection.execute("update audit_events set mac = null, heads = null")
            connection.execute("delete from audit_checkpoints")
    report = book.report()
    assert not report["whole"] and report["unprotected"] == 0
    # That it was verified is the first event of a stream: it vouches for nothing, and neither does what follows.
    assert book.run("project", "add", "later").returncode == 0
    report = book.report()
    assert not report["whole"] and report["unprotected"] == 0
    with engine.connect(book.database) as connection:
        heads = [json.loads(row[0]) for row in connection.execute("select heads from audit_events where heads is not null")]
        assert all(head["mac"] for head in sum(heads, [])), "the desk said that something is older than the chain"
        told = connection.execute("select reason from audit_events where action = 'audit.verify' and outcome = 'failed'").fetchall()
        assert any("its head was forged" in reason for reason, in told), told


def test_events_where_nobody_looks(original, book):
    """Before the first place that there can be in the order of the chain."""
    with book.forging() as connection:
        connection.execute(
            "alter table audit_events drop constraint audit_events_seq_check" if engine.ON_POSTGRES else
            "pragma ignore_check_constraints = on")
        for seq in (0, -1):
            copy_of(connection, original, 7, stream=bytes(16), seq=seq, heads=None)
    fault = book.fault()
    assert fault["kind"] == "inserted" and "2 events" in fault["what"], fault


@pytest.mark.sqlite("only whoever has the server's files can do that there")
def test_an_index_that_does_not_tell_all(original, book):
    """The rows are there, but who asks by an index does not find them."""
    with book.forging() as connection:
        connection.execute("drop index audit_events_with_heads")
        connection.execute("create index audit_events_with_heads on audit_events (stream, seq) where seq < 0")
        connection.execute("pragma writable_schema = on")
        connection.execute(
            "update sqlite_master set sql = replace(sql, 'seq < 0', 'heads is not null') where name = 'audit_events_with_heads'")
        connection.execute("pragma writable_schema = reset")
    assert "index" in book.fault()["what"]


@pytest.mark.parametrize("column", ["anchored", "carried", "watched"])
def test_a_stream_that_was_looked_at_further_than_it_goes(original, book, column):
    """Of such a stream no checkpoint would be made, no later stream would name it, and no rule would look at it."""
    with book.forging() as connection:
        connection.execute(f"update audit_streams set {column} = 9000000000000000000 where stream = ?", (original.stream,))
    fault = book.fault()
    assert (fault["kind"], fault["stream"]) == ("head", name(original.stream)), fault


def test_a_stream_whose_checkpoints_were_suppressed(original, book):
    assert book.run("audit", "export").returncode == 0, "which leaves an event, and no checkpoint"
    with book.forging() as connection:
        stream = connection.execute("select stream from audit_streams where anchored = 0").fetchone()["stream"]
        connection.execute("update audit_streams set anchored = seq where stream = ?", (stream,))
    fault = book.fault()
    assert (fault["kind"], fault["stream"]) == ("head", name(stream)), fault


@pytest.mark.parametrize("sql, what", [
    ("create function keep() returns trigger language plpgsql as "
     "$$ begin update audit_streams set anchored = seq; return null; end $$; "
     "create trigger keep after update on audit_streams for each row execute function keep()" if engine.ON_POSTGRES else
     "create trigger keep after update on audit_streams begin update audit_streams set anchored = seq; end", "trigger keep"),
    (engine.drop_rule("audit_events_are_not_changed"), "trigger audit_events_are_not_changed"),
    ("create view audit as select * from audit_events", "rule _RETURN" if engine.ON_POSTGRES else "view audit"),
])
def test_rules_of_the_database_that_are_not_ours(original, book, sql, what):
    with engine.connect(book.database) as connection:
        connection.execute(sql)
    assert f"{what} is not the one" in book.fault()["what"]


BEFORE_POSTGRES = pytest.mark.sqlite("no version without a chain has known it")


def before_the_chain(book):
    """The same desk as the version before the chain left it: its schema, its rows, no MACs, no checkpoints."""
    old = book.database.with_name("old.db")
    migrations = sorted((ROOT / "migrations" / "sqlite").glob("000[12]_*.sql"))
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as connection:
        for migration in migrations:
            connection.executescript(migration.read_text())
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        connection.execute("attach ? as present", (str(book.database),))
        connection.execute(
            "create table _sqlx_migrations as select * from present._sqlx_migrations where version <= ?", (len(migrations),))
        for table in tables:
            if table != "audit_events":  # the others begin with a row or none
                connection.execute(f"delete from {table}")
            columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
            taken = ["null" if (table, column) == ("audit_events", "mac") else column for column in columns]
            connection.execute(f"insert into {table} select {', '.join(taken)} from present.{table}")
        connection.execute("detach present")
        count = connection.execute("select count(*) from audit_events").fetchone()[0]
    for suffix in ("", "-wal", "-shm"):
        book.database.with_name(f"keydesk.db{suffix}").unlink(missing_ok=True)
    old.rename(book.database)
    book.checkpoints.unlink()
    return count


@BEFORE_POSTGRES
def test_what_is_older_than_the_chain_is_said_to_be_unprotected(original, book):
    count = before_the_chain(book)
    report = book.report()
    assert report["whole"] and report["unprotected"] == count
    assert book.run("project", "add", "later").returncode == 0
    report = book.report()
    assert report["whole"] and (report["unprotected"], report["events"]) == (count, count + 2)
    # From the first event of the chain on it is known how much there was.
    with book.forging() as connection:
        connection.execute("delete from audit_events where stream = ? and seq = ?", (original.stream, original.length))
    fault = book.fault()
    assert (fault["kind"], fault["stream"], fault["seq"]) == ("truncated", name(original.stream), original.length)


@BEFORE_POSTGRES
def test_nothing_is_added_to_what_is_older_than_the_chain(original, book):
    before_the_chain(book)
    assert book.run("project", "add", "later").returncode == 0
    assert book.report()["whole"]
    for mac in (None, b"\7" * 32):
        with book.forging() as connection:
            copy_of(connection, original, 7, seq=original.length + 1, mac=mac)
        fault = book.fault()
        assert (fault["kind"], fault["stream"], fault["seq"]) == ("inserted", name(original.stream), original.length + 1), fault
        with book.forging() as connection:
            connection.execute("delete from audit_events where stream = ? and seq > ?", (original.stream, original.length))
    with book.forging() as connection:
        connection.execute("update audit_events set mac = ? where stream = ? and seq = 7", (b"\7" * 32, original.stream))
    fault = book.fault()
    assert (fault["kind"], fault["seq"]) == ("changed", 7), fault


@BEFORE_POSTGRES
def test_a_chain_does_not_begin_twice(original, book):
    """Whoever takes the signs of the chain away after it has begun makes nothing older than it."""
    before_the_chain(book)
    for project in ("later", "later2"):
        assert book.run("project", "add", project).returncode == 0
    with book.forging() as connection:
        first = connection.execute("select stream from audit_events where heads is not null").fetchone()["stream"]
        connection.execute("update audit_events set mac = null, heads = null, actor = 'mallory' where stream = ?", (first,))
        connection.execute("update audit_streams set seal = null, mac = null, carried = 0 where stream = ?", (first,))
    assert not book.report()["whole"]
    assert book.run("project", "add", "later3").returncode == 0
    assert not book.report()["whole"]


def test_a_whole_stream_removed(original, book):
    with book.forging() as connection:
        streams = [row[0] for row in connection.execute("select stream from audit_streams order by stream")]
    for stream in streams[:-1]:
        with book.forging() as connection:
            connection.execute("begin")
            connection.execute("delete from audit_events where stream = ?", (stream,))
            connection.execute("delete from audit_streams where stream = ?", (stream,))
            connection.execute("commit")
        fault = book.fault()
        assert (fault["kind"], fault["stream"], fault["seq"]) == ("truncated", name(stream), 1), fault
        shutil.rmtree(book.data)
        shutil.copytree(original.whole.data, book.data)
        if engine.ON_POSTGRES:
            book.take_database(original.whole)


def test_an_older_database_in_place_of_the_present_one(original, book):
    book.take_database(original.older)
    fault = book.fault()
    assert fault["kind"] == "truncated" and "checkpoint" in fault["what"]


def test_everything_older_but_for_a_copy_of_the_checkpoints(original, tmp_path):
    rolled_back = original.older.copy(tmp_path)
    assert rolled_back.report()["whole"], "nothing on the machine tells"
    fault = rolled_back.fault("--checkpoints", str(original.whole.checkpoints))
    assert fault["kind"] == "truncated" and "checkpoint" in fault["what"]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(line, change, key=None):
    header, claims, signature = line.split(".")
    claims = json.loads(base64.urlsafe_b64decode(claims + "=="))
    change(claims)
    signed = f"{header}.{b64(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{signed}.{b64(key.sign(signed.encode())) if key else signature}"


def test_an_edited_checkpoint(original, book):
    lines = book.lines()
    for key in (None, Ed25519PrivateKey.generate()):
        for number, line in enumerate(lines):
            book.write_lines([*lines[:number], forged(line, lambda claims: claims.update(heads=[]), key), *lines[number + 1:]])
            fault = book.fault()
            assert fault["kind"] == "checkpoint" and f"line {number + 1} of" in fault["what"]
    book.write_lines([*lines, "rubbish"])
    assert book.fault()["kind"] == "checkpoint"


def test_deleted_checkpoints(original, book):
    lines = book.lines()
    assert len(lines) >= 2
    # The last one may just not have come to a server's own file yet, and its row is there.
    for number in range(len(lines) - engine.ON_POSTGRES):
        book.write_lines(lines[:number] + lines[number + 1:])
        fault = book.fault()
        assert fault["kind"] == "checkpoint"
        assert f"checkpoint {number + 1} is missing" in fault["what"], fault
    # The same in the copy that was given, and whole by its help.
    whole = book.home / "whole"
    whole.write_text("".join(f"{line}\n" for line in lines))
    assert book.report("--checkpoints", str(whole))["whole"]


def test_a_half_written_last_line_is_not_a_forgery(book):
    with book.checkpoints.open("a") as file:
        file.write("eyJhbGciOiJFZERTQSIs")
    assert book.report()["whole"]


@pytest.mark.parametrize("record", ["", "a.b.c", "checkpoint"])
def test_a_made_up_pruning_record(original, book, record):
    """With a record that is not signed, the triggers let old events be deleted; the book does not."""
    jws = book.lines()[0] if record == "checkpoint" else record
    with engine.connect(book.database) as connection:
        with pytest.raises(engine.REFUSED, match="never deleted"):
            connection.execute("delete from audit_events where stream = ? and seq <= 5", (original.stream,))
        connection.execute("insert into audit_prunings (stream, seq, jws) values (?, 5, ?)", (original.stream, jws))
        connection.execute("delete from audit_events where stream = ? and seq <= 5", (original.stream,))
        with pytest.raises(engine.REFUSED, match="never deleted"):
            connection.execute("delete from audit_events where stream = ? and seq = 6", (original.stream,))
    report = book.report()
    assert [fault["kind"] for fault in report["faults"][:2]] == ["pruning", "missing"]
    assert report["faults"][0]["stream"] == name(original.stream)


def test_the_triggers_refuse_changes(original, book):
    with engine.connect(book.database) as connection:
        for statement, words in (
            ("update audit_events set actor = 'mallory'", "never changed"),
            ("delete from audit_events", "never deleted"),
            *((
                ("truncate audit_events", "never changed"),
                ("insert into audit_events select * from audit_events on conflict (stream, seq) do update set actor = 'mallory'",
                 "never changed"),
            ) if engine.ON_POSTGRES else (
                ("replace into audit_events select * from audit_events where seq = 1", "never replaced"),
                ("insert or replace into audit_events select * from audit_events", "never replaced"),
            )),
        ):
            with pytest.raises(engine.REFUSED, match=words):
                connection.execute(statement)
    assert book.report()["whole"], "nothing of it had an effect"


def test_a_desk_that_goes_on_after_a_roll_back(original, new_desk, tmp_path):
    """The checkpoint file remembers what the database does not: both stories are in it."""
    desk = new_desk()
    shutil.copytree(original.older.data, desk.data)
    if engine.ON_POSTGRES:
        desk.use_database(engine.new_database(original.older.database))
    shutil.copy(original.whole.checkpoints, desk.data / "audit.checkpoints")
    desk.start()
    for _ in range(3):
        desk.get("/health/ready")
    assert desk.stop() == 0
    report = Book.of(desk).report()
    assert not report["whole"] and any(fault["kind"] == "checkpoint" for fault in report["faults"])
    assert "does not end with the one before" in desk.log.read_text()


def test_a_checkpoint_is_no_access_token(new_desk):
    desk = new_desk().start()
    assert desk.stop() == 0
    lines = (desk.data / "audit.checkpoints").read_text().split()
    desk.start()
    for line in lines:
        assert desk.get("/llm-keys", headers={"Authorization": f"Bearer {line}"}).status_code == 401
    kids = {key["kid"] for key in desk.get("/.well-known/jwks.json").json()["keys"]}
    public = json.loads(desk.cli("audit", "public-key"))
    assert public["kid"] not in kids and "d" not in public
    desk.stop()


def test_anybody_can_check_a_checkpoint_with_the_public_key(original):
    import jwt

    key = jwt.PyJWK(json.loads(original.whole.run("audit", "public-key").stdout))
    book = audit_chain.checked(original.whole.database, original.whole.data / "kek")
    for number, line in enumerate(original.whole.lines(), 1):
        assert jwt.get_unverified_header(line)["typ"] == "audit-checkpoint+jwt"
        claims = jwt.decode(line, key, algorithms=["EdDSA"])
        assert claims["seq"] == number
        for head in claims["heads"]:
            assert book[bytes.fromhex(head["stream"].replace("-", ""))][0] >= head["seq"]


def test_the_book_is_whole_at_every_moment_of_a_busy_desk(new_desk):
    desk = new_desk().start()
    stop = threading.Event()

    def read():
        with requests.Session() as session:
            session.headers["X-API-Key"] = desk.service_api_key
            while not stop.is_set():
                session.get(f"{desk.url}/llm-keys", timeout=30)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    book = Book.of(desk)
    for number in range(5):
        desk.cli("project", "add", f"p{number}")
        assert book.report()["whole"]
    stop.set()
    for reader in readers:
        reader.join()
    assert desk.stop() == 0
    assert book.report()["whole"]
