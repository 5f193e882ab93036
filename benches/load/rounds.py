"""The rounds: in each, everything is measured once, the bare server and the desk in turns.

Ratios are taken within a round, so that a machine that is slower for a minute is slower for both sides.
"""

import dataclasses
import random
import time

import machine
import servers
import wrk

CONNECTIONS = (1, 32, 256)
# Enough that somebody always waits to be hashed, and fewer than the desk lets wait.
LOGINS = 16
# The reads whose latency is looked at while logins flood: 32 clients that each ask about ten times a second.
READERS, PAUSE = 32, 200
# How many samples a round takes.
STEPS = len(CONNECTIONS) * 3 + 2


@dataclasses.dataclass
class Round:
    """What one round has measured."""

    samples: dict = dataclasses.field(default_factory=dict)  # (what, connections) -> Sample
    sync: dict = dataclasses.field(default_factory=dict)  # milliseconds of fdatasync: growing, allocated
    hash_time: float = 0.0  # milliseconds
    permits: int = 0
    faults: list = dataclasses.field(default_factory=list)

    def rate(self, what, connections):
        return self.samples[what, connections].rate


def run(desk, bare, folder, seconds, progress):
    """One round. `desk` is the one to copy, `bare` runs."""
    round, disk = Round(), machine.Disk(folder)
    copy = desk.copy(folder / "round")
    with copy.start():
        asked = {
            "bare": (bare, bare.read),
            "jwt": (copy, copy.by_jwt()),
            "api key": (copy, copy.by_api_key),
            "client credentials": (copy, copy.by_client_credentials),
            "password": (copy, [servers.login(user) for user in servers.USERS]),
        }
        check_bodies(asked)
        for what in ("bare", "jwt", "api key"):
            wrk.drive(*one(asked[what]), 32, 1)
        handed = copy.events("llm_keys.read")
        for connections in CONNECTIONS:
            for what in ("bare", "jwt", "api key"):
                if connections == 1:
                    disk.measure(seconds / 5)
                measure(round, progress, what, asked, connections, seconds)
        round.sync = disk.close()
        measure(round, progress, "client credentials", asked, 32, seconds)
        round.permits, round.hash_time = copy.permits(), copy.hash_time(12)
        measure(round, progress, "password", asked, LOGINS, seconds)
        check_book(round, copy.events("llm_keys.read") - handed)
    copy.remove()
    return round


def one(asked):
    server, requests = asked
    return server, requests if isinstance(requests, list) else [requests]


def measure(round, progress, what, asked, connections, seconds):
    sample = wrk.drive(*one(asked[what]), connections, seconds)
    note(round, progress, what, connections, sample)


def note(round, progress, what, connections, sample):
    round.samples[what, connections] = sample
    progress.step(f"{what}, {connections} connections: {sample.rate:,.0f}/s, p99 {sample.p99:.2f} ms")
    if sample.refused or sample.broken:
        fault = f"{what}, {connections} connections: {sample.refused} refused, {sample.broken} broken"
        round.faults.append(fault)
        progress.say(f"VOID: {fault}")


def check_bodies(asked):
    """The same answer from both, or the comparison would mean nothing."""
    bodies = {what: server.must(request) for what, (server, request) in asked.items() if not isinstance(request, list)}
    if not bodies["bare"] == bodies["jwt"] == bodies["api key"]:
        raise RuntimeError(f"the answers differ:\n{bodies}")


def check_book(round, lines):
    """Every key that was handed out is in the book, or what was measured was not the desk."""
    handed = sum(sample.requests - sample.refused for (what, _), sample in round.samples.items() if what in ("jwt", "api key"))
    if lines < handed:
        raise RuntimeError(f"{handed} reads were answered, and the book has {lines} lines about them")


def flood(desk, folder, seconds, progress):
    """Key reads alone, and the same while 16 connections send nothing but logins, right and wrong ones, from everywhere: with
    a proxy's header, because one address alone would soon be told to wait."""
    copy = desk.copy(folder / "flood", KEYDESK_SERVER__TRUSTED_PROXIES="127.0.0.1")
    round = Round()
    with copy.start():
        logins = list(flood_of_logins())
        reads = [copy.by_jwt()]
        wrk.drive(copy, reads, READERS, 1, PAUSE)
        note(round, progress, "reads alone", READERS, wrk.drive(copy, reads, READERS, seconds, PAUSE))
        before = copy.events("token.issue")
        flooding = wrk.start(copy.url, logins, 16, seconds + 2)
        time.sleep(1)
        sample = wrk.drive(copy, reads, READERS, seconds, PAUSE)
        note(round, progress, "reads in the flood", READERS, sample)
        result = wrk.finish(flooding)
        let_in = copy.events("token.issue") - before
        progress.say(f"the flood: {result['requests']} answers, {let_in} of them tokens")
        if not let_in < result["requests"]:
            raise RuntimeError("the flood had no wrong logins in it")
    copy.remove()
    return round


def flood_of_logins():
    """A third are right, a third have names that nobody has, a third are one user's wrong passwords."""
    chance = random.Random(7)
    for number in range(6000):
        source = f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
        user = number % len(servers.USERS)
        yield servers.login(f"user-{user}", servers.USER_PASSWORD, ("X-Forwarded-For", f"192.0.2.{user + 1}"))
        yield servers.login(f"nobody-{number}", "a wrong password of somebody", ("X-Forwarded-For", source))
        yield servers.login("admin", "a wrong password of the admin", ("X-Forwarded-For", source))


def starts(desk, folder, times):
    """How long it takes from the process to the first healthy answer, each time on a desk that is there, in milliseconds; and
    what it has in memory a second after the last of them, in MiB."""
    copy, took = desk.copy(folder / "start"), []
    for number in range(times):
        with copy.start():
            took.append(copy.started_in)
            if number == times - 1:
                time.sleep(1)
                resident = copy.resident()
    copy.remove()
    return took, resident
