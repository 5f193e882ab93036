"""The figures that count, and what each is meant to be.

A figure is taken from each round, and its median is what is compared. All of them are ratios to something that was measured
in the same round on the same machine, except for the last three, which are what they are.
"""

import dataclasses
import statistics
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    target: str
    reached: Callable  # of the median
    value: Callable  # of a round
    shown: str
    beside: Callable  # of a round: what it is a ratio of, both sides
    beside_shown: str


def ratio(what, connections, base, base_connections=None):
    base_connections = base_connections or connections
    return {
        "value": lambda round: round.rate(what, connections) / round.rate(base, base_connections),
        "beside": lambda round: (round.rate(what, connections), round.rate(base, base_connections)),
        "beside_shown": "{:,.0f}/s, " + base + " {:,.0f}/s",
    }


def p50(round, what):
    return round.samples[what, 1].p50


def single(round):
    return p50(round, "bare") + round.sync["allocated"]


def hashing(round):
    return round.permits / round.hash_time * 1000


def reading(round, how):
    return round.samples[how, 32].p99


FIGURES = [
    Figure("`GET /llm-keys`, JWT, 256 connections", "≥ 0.60 × bare", lambda x: x >= 0.60, shown="{:.2f} × bare",
           **ratio("jwt", 256, "bare")),
    Figure("`GET /llm-keys`, JWT, 32 connections", "≥ 0.40 × bare", lambda x: x >= 0.40, shown="{:.2f} × bare",
           **ratio("jwt", 32, "bare")),
    # Two measurements of one thing differ by as much.
    Figure("`GET /llm-keys`, `X-API-Key`, 256 connections", "no slower than JWT (within 3 %)", lambda x: x >= 0.97,
           shown="{:.2f} × JWT", **ratio("api key", 256, "jwt")),
    Figure("`GET /llm-keys`, `X-API-Key`, 32 connections", "no slower than JWT (within 3 %)", lambda x: x >= 0.97,
           shown="{:.2f} × JWT", **ratio("api key", 32, "jwt")),
    Figure("`GET /llm-keys`, JWT, one at a time: p50", "≤ bare + one fdatasync (into an allocated file)", lambda x: x <= 1,
           lambda round: p50(round, "jwt") / single(round), "{:.2f} × (bare + fdatasync)",
           lambda round: (p50(round, "jwt"), p50(round, "bare"), round.sync["allocated"], round.sync["growing"]),
           "{:.2f} ms, bare {:.2f} ms, fdatasync {:.2f} ms (growing file: {:.2f} ms)"),
    Figure("`POST /token`, password, 16 connections", "≥ 0.95 × permits ÷ argon2id time", lambda x: x >= 0.95,
           lambda round: round.rate("password", 16) / hashing(round), "{:.2f} × permits ÷ time",
           lambda round: (round.rate("password", 16), round.permits, round.hash_time),
           "{:.1f}/s, {:.0f} at a time, {:.1f} ms each"),
    Figure("`POST /token`, client_credentials, 32 connections", "≥ 0.25 × bare", lambda x: x >= 0.25, shown="{:.2f} × bare",
           **ratio("client credentials", 32, "bare")),
]

FLOOD = Figure(
    "`GET /llm-keys`, 32 clients at ease: p99 while 16 connections flood `/token`", "≤ 3 × without the flood", lambda x: x <= 3,
    lambda round: reading(round, "reads in the flood") / reading(round, "reads alone"), "{:.2f} × without",
    lambda round: (reading(round, "reads in the flood"), reading(round, "reads alone")), "{:.2f} ms, without {:.2f} ms")

START = ("start to healthy, median of {}", "≤ 100 ms", lambda x: x <= 100, "{:.0f} ms")
IDLE = ("resident memory, idle", "≤ 30 MiB", lambda x: x <= 30, "{:.1f} MiB")
LOADED = ("resident memory under 256 connections, at most", "≤ 64 MiB", lambda x: x <= 64, "{:.1f} MiB")


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure as it came out."""

    name: str
    target: str
    measured: str
    beside: str
    reached: bool


def rows(rounds, floods, starts, idle):
    """The table. Rounds with errors are not in it."""
    table = [row(figure, whole(rounds)) for figure in FIGURES] + [row(FLOOD, whole(floods))]
    loaded = [sample.resident for round in whole(rounds) for (what, count), sample in round.samples.items()
              if count == 256 and what != "bare"]
    table.append(plain(START, [len(starts)], starts))
    table.append(plain(IDLE, [], [idle]))
    table.append(plain(LOADED, [], [max(loaded)]) if loaded else missing(LOADED[0], LOADED[1]))
    return table


def whole(rounds):
    return [round for round in rounds if not round.faults]


def row(figure, rounds):
    if not rounds:
        return missing(figure.name, figure.target)
    values = [figure.value(round) for round in rounds]
    beside = [statistics.median(side) for side in zip(*(figure.beside(round) for round in rounds))]
    number = figure.shown.split(" ", 1)[0]
    spread = f" ({number.format(min(values))}–{number.format(max(values))})" if len(values) > 1 else ""
    median = statistics.median(values)
    return Row(figure.name, figure.target, figure.shown.format(median) + spread, figure.beside_shown.format(*beside),
               figure.reached(median))


def plain(figure, arguments, values):
    name, target, reached, shown = figure
    median = statistics.median(values)
    spread = f"{shown.format(min(values))} to {shown.format(max(values))}" if len(values) > 1 else ""
    return Row(name.format(*arguments), target, shown.format(median), spread, reached(median))


def missing(name, target):
    return Row(name, target, "not measured: no round was without errors", "", False)


@dataclasses.dataclass(frozen=True)
class Detail:
    """The medians of everything that was driven."""

    name: str
    connections: int
    rate: float
    slowest: float
    fastest: float
    p50: float
    p99: float
    cpu: float
    resident: float


def details(rounds):
    found = {}
    for round in whole(rounds):
        for key, sample in round.samples.items():
            found.setdefault(key, []).append(sample)
    for (name, connections), samples in found.items():
        middle = {field: statistics.median(getattr(sample, field) for sample in samples)
                  for field in ("rate", "p50", "p99", "cpu", "resident")}
        rates = [sample.rate for sample in samples]
        yield Detail(name, connections, slowest=min(rates), fastest=max(rates), **middle)


def others(rounds):
    """Which part of the machine somebody else had, at the median and at the worst."""
    shares = [sample.others for round in rounds for sample in round.samples.values()]
    return statistics.median(shares), max(shares)
