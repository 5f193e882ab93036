"""What clients saw of a desk, written down where its faults cannot reach, and what must be true of the desk because of it.

`load.py` writes one line before it asks for anything that changes the desk and one line after each answer. So every
operation is acknowledged, refused, or unknown: asked for, and nobody knows what became of it. After a fault and a restart:

1. whatever was delivered is in the book, with the right object and version;
2. whatever was acknowledged is there;
3. what is unknown was done wholly or not at all;
4. the book is sound;
5. the database is sound;
6. no token that is good for one use was used twice.
"""

import collections
import datetime
import hashlib
import json
import shutil
import sqlite3
import time

from sources import Client

GRACE = 10  # seconds


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def now():
    """A moment, as the command line takes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class History:
    """The lines of some load processes, in the order in which each was written."""

    def __init__(self, paths):
        self.reads, self.acknowledged, self.surprises = [], [], []
        self.unknown = {}  # operation → the digest of the key that it would have set
        self.refused = collections.Counter()
        self.current = {}  # session → its newest token, as far as its client knows
        self.used = set()
        self.spent = collections.defaultdict(list)  # session → tokens that were exchanged for another
        self.successors = collections.defaultdict(set)
        self.pending = {}  # session → since when nobody knows whether its newest token is spent
        self.lost = set()  # sessions whose lost answer could not be asked for in time
        self.asked = {}  # operation → when
        for path in paths:
            for line in path.read_text().splitlines(keepends=True):
                # The last line may have been cut with the process that wrote it.
                if line.endswith("\n"):
                    self.add(path.name, json.loads(line))

    def add(self, writer, entry):
        what, operation = entry["op"], (writer, entry["n"])
        if "status" not in entry:
            if what == "rotate":
                self.unknown[operation] = entry["key"]
            elif what == "refresh":
                self.used.add(entry["session"])
                self.asked[operation] = entry["at"]
                self.current.setdefault(entry["session"], entry["shown"])
                self.pending.setdefault(entry["session"], entry["at"])
            return
        status = entry["status"]
        if status == 503:
            # Not done, or done and not said: a failed commit leaves both open.
            self.refused[what] += 1
        elif (what, status) == ("refresh", 400) and self.is_late(entry["session"], self.asked[operation]):
            self.lost.add(entry["session"])
        elif status != 200:
            self.surprises.append(entry)
        elif what == "read":
            self.reads.append(entry)
        elif what == "rotate":
            self.acknowledged.append({**entry, "key": self.unknown.pop(operation)})
        elif what == "refresh":
            self.successors[entry["shown"]].add(entry["next"])
            self.spent[entry["session"]].append(entry["shown"])
            self.current[entry["session"]] = entry["next"]
            self.pending.pop(entry["session"], None)

    def is_late(self, session, at):
        """A token that may have been spent long ago is an attack, for all the desk knows."""
        return session in self.lost or at - self.pending.get(session, at) > GRACE - 2

    def __str__(self):
        return (
            f"{len(self.reads)} reads, {len(self.acknowledged)} rotations and {sum(map(len, self.spent.values()))} "
            f"refreshes acknowledged, {len(self.unknown)} rotations unknown, {sum(self.refused.values())} answered with 503"
        )


def openai(desk):
    """The version of the key that is rotated, by the command line."""
    return next(row["version"] for row in desk.cli_json("key", "list") if row["provider"] == "openai")


def check(desk, history, before, since):
    """What must be true after the restart. `before` is the version and the key's digest before the load began, `since` the
    moment. Returns the same for the next round."""
    assert not history.surprises, history.surprises[:3]
    # First, because it must be soon. 6, and 2 and 3 for sessions: the newest token that was acknowledged is good, whether or
    # not its own use was cut off; if it was, for the ten seconds in which a lost answer can be asked for again.
    for session, token in list(history.current.items()):
        if history.is_late(session, time.time()):
            del history.current[session]
            continue
        with Client(desk, session.split(" ")[0]) as client:
            reply = client.token(grant_type="refresh_token", refresh_token=token, client_id="keydesk")
        assert reply.status == 200, f"a session was lost: {reply.status} {reply.body}"
        history.current[session] = reply.json()["refresh_token"]
        history.successors[token].add(history.current[session])
    assert all(len(successors) == 1 for successors in history.successors.values()), "a refresh token had two successors"

    book = {}
    for event in desk.cli_json("audit", "list", "--limit", "1000000", "--since", since):
        book.setdefault((event["request_id"], event["action"]), event)

    # 2. Every acknowledged rotation has its event, and no two have one version.
    keys = dict([before])
    for entry in history.acknowledged:
        event = book.get((entry["id"], "provider_key.set"))
        assert event and event["outcome"] == "allowed", f"{entry} was acknowledged and is not in the book"
        assert event["object"] == "provider_key:default/openai" and event["version"] == str(entry["version"]), event
        assert entry["version"] not in keys, f"version {entry['version']} was given twice"
        keys[entry["version"]] = entry["key"]

    # 3. The number in the database and the events in the book, which one transaction wrote, agree.
    version = openai(desk)
    written = [event for (_, action), event in book.items() if (action, event["outcome"], event["object"]) == (
        "provider_key.set", "allowed", "provider_key:default/openai")]
    assert sorted(int(event["version"]) for event in written) == list(range(before[0] + 1, version + 1))
    assert len(written) <= len(history.acknowledged) + len(history.unknown)
    assert version >= max(keys), f"version {max(keys)} was acknowledged and is lost"
    answer = desk.get("/llm-keys/openai", headers={"X-API-Key": desk.service_api_key}).json()
    assert answer["version"] == version
    tried = set(history.unknown.values())
    now = digest(answer["key"])
    assert now == keys.setdefault(version, now) and (now in tried or version in dict([before]) or any(
        entry["key"] == now for entry in history.acknowledged)), "the current key is none that was set"

    # 1. Every delivered response has its event, about the versions that were handed over.
    for entry in history.reads:
        event = book.get((entry["id"], "llm_keys.read"))
        assert event, f"{entry['id']} was delivered and is not in the book ({len(history.reads)} delivered)"
        assert (event["outcome"], event["actor"]) == ("allowed", "default"), event
        assert event["object"] in ("project:default", "provider_key:default/openai"), event
        versions = dict(part.split("=") for part in event["version"].split())
        delivered = int(versions["openai"])
        assert entry.get("version", delivered) == delivered, (entry, event)
        assert entry["key"] in tried or delivered in keys, f"version {delivered} is none that was set"
        assert keys.setdefault(delivered, entry["key"]) == entry["key"], f"version {delivered} is not the key delivered"
        assert set(versions) >= set(entry["providers"]), (entry, event)

    # 4.
    desk.cli("audit", "verify")
    return version, now


def check_spent(desk, history):
    """6. What was spent long ago is no good after a restart either, and gives itself away."""
    checked = 0
    for session, tokens in history.spent.items():
        if len(tokens) > 2:
            with Client(desk, session.split(" ")[0]) as client:
                reply = client.token(grant_type="refresh_token", refresh_token=tokens[0], client_id="keydesk")
            assert (reply.status, reply.json()["error"]) == (400, "invalid_grant")
            checked += 1
    return checked


def check_files(data, scratch):
    """5. What SQLite says of the files as the fault left them; asked of a copy, because asking repairs."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(data, scratch)
    connection = sqlite3.connect(scratch / "keydesk.db")
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert connection.execute("pragma foreign_key_check").fetchall() == []
    finally:
        connection.close()
        shutil.rmtree(scratch)
