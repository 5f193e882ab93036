"""Somebody who does not change the book, but keeps the desk from writing or anchoring it: that must show, too."""

import pytest

import engine
from test_audit_forgery import Book


@pytest.fixture
def desk(new_desk):
    running = new_desk().start()
    yield running
    running.stop()


def read(desk):
    return desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key})


def test_what_is_kept_from_the_checkpoints_is_anchored_all_the_same(desk):
    assert read(desk).status_code == 200
    book = Book.of(desk)
    with desk.connect() as database:
        (stream,) = database.execute("select stream from audit_events where action = 'llm_keys.read'").fetchone()
        noted = database.execute("select seq, mac, seal, carried, anchored, watched from audit_streams where stream = ?", [stream]).fetchone()
        database.execute("update audit_streams set anchored = 1000000000, carried = 1000000000 where stream = ?", [stream])
    for _ in range(10):
        assert read(desk).status_code == 200
    assert desk.stop() == 0
    with book.forging() as database:
        database.execute("delete from audit_events where stream = ? and seq > ?", [stream, noted[0]])
        database.execute(
            "update audit_streams set seq = ?, mac = ?, seal = ?, carried = ?, anchored = ?, watched = ? where stream = ?",
            [*noted, stream],
        )
    fault = book.fault()
    assert "missing at the end: truncated behind checkpoint" in fault["what"], fault


def test_a_mark_that_cannot_be_true_is_an_alarm(desk):
    with desk.connect() as database:
        database.execute("update audit_streams set anchored = seq + 1")
    assert read(desk).status_code == 200
    assert desk.stop() == 0
    desk.start()
    assert "forged_book" in {alarm["rule"] for alarm in desk.cli_json("alert", "list")}


def test_what_the_command_line_did_is_anchored_when_it_has_ended(desk):
    assert desk.stop() == 0
    book = Book.of(desk)
    with desk.connect() as database:
        before = {stream for (stream,) in database.execute("select distinct stream from audit_events")}
    desk.cli("user", "add", "mallory", "--role", "admin", "--password-stdin", stdin="a phrase that mallory made\n")
    with book.forging() as database:
        streams = {stream for (stream,) in database.execute("select distinct stream from audit_events")} - before
        for stream in streams:
            database.execute("delete from audit_events where stream = ?", [stream])
            database.execute("delete from audit_streams where stream = ?", [stream])
    assert len(streams) == 1
    assert "truncated behind checkpoint" in book.fault()["what"]


def test_a_line_that_is_swallowed_is_no_line(desk):
    with desk.connect() as database:
        database.execute(
            "create function swallow() returns trigger language plpgsql as $$ begin return null; end $$; "
            "create trigger swallow before insert on audit_events for each row when (new.action = 'llm_keys.read') "
            "execute function swallow()" if engine.ON_POSTGRES else
            "create trigger swallow before insert on audit_events when new.action = 'llm_keys.read' "
            "begin select raise(ignore); end"
        )
    answer = read(desk)
    assert answer.status_code == 503 and not [key for key in desk.keys.values() if key in answer.text]
    with desk.connect() as database:
        database.execute(engine.drop_rule("swallow"))
    assert read(desk).status_code == 200
    assert Book.of(desk).report()["whole"]
