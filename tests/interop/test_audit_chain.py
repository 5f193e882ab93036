"""The book is a chain that anybody with the key-encryption key can recompute."""

import threading

import requests

from audit_chain import carried, checked, events


def test_another_program_recomputes_every_mac(new_desk):
    desk = new_desk().start()
    database, kek = desk.database, desk.data / "kek"

    def read():
        for _ in range(20):
            assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).status_code == 200

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for number in range(5):
        desk.cli("project", "add", f"p{number}")
    desk.run("project", "add", "p0")  # refused: rolled back, and an event of its own
    for reader in readers:
        reader.join()
    assert requests.post(f"{desk.url}/token", data={"grant_type": "x", "username": "\x1b[31mred"}, timeout=30).status_code == 400
    assert desk.stop() == 0

    heads = checked(database, kek)
    assert len(heads) >= 7, "the first start, the server and each command write a stream of their own"
    book = events(database)
    assert all((event["heads"] is None) or event["seq"] == 1 for event in book)
    # Every stream but the last is named by the first event of a later one, or the server's by a command's.
    named = set().union(*(carried(event) for event in book))
    assert len(set(heads) - named) <= 1
