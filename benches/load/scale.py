"""How the figures change with connections, principals, provider keys and the length of the book."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import statistics
import threading
import time

import page
import plot
import seed
import servers
import wrk

CONNECTIONS = [2**power for power in range(11)]
PRINCIPALS = [1, 1_000, 10_000, 100_000]
PROVIDERS = [1, 4, 20, 100]
EVENTS, EVENTS_WITHIN, WINDOW = 5_000_000, 360, 5
COMMANDS = [1, 10, 100, 300]
PLOTS = pathlib.Path("docs/performance")


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is shown of one thing that grows."""

    heading: str
    said: str
    head: list
    rows: list
    plots: dict  # file name -> SVG

    def text(self):
        images = [f"![{self.heading}](performance/{name}.svg)" for name in self.plots]
        right = range(1, len(self.head))
        return "\n\n".join([f"### {self.heading}", self.said, *images, page.table(self.head, self.rows, right)])

    def draw(self):
        PLOTS.mkdir(exist_ok=True)
        for name, drawn in self.plots.items():
            (PLOTS / f"{name}.svg").write_text(drawn)


def steps():
    """How many samples will be taken, if the book fills as slowly as it may."""
    return len(CONNECTIONS) * 4 + len(PRINCIPALS) * 3 + len(PROVIDERS) + len(COMMANDS) + EVENTS_WITHIN // WINDOW


def curves(desk, bare, folder, progress):
    yield connections(desk, bare, folder / "connections", progress)
    yield principals(desk, folder / "principals", progress)
    yield providers(desk, folder / "providers", progress)
    yield processes(desk, folder / "processes", progress)
    yield events(desk, folder / "events", progress)


def sample(progress, label, *arguments):
    """A sample that must be without errors."""
    taken = wrk.drive(*arguments)
    progress.step(f"{label}: {taken.rate:,.0f}/s, p99 {taken.p99:.2f} ms")
    if taken.refused or taken.broken:
        progress.say(f"not all answered: {label}: {taken.refused} refused, {taken.broken} broken")
    return taken


def connections(desk, bare, home, progress):
    copy, found = desk.copy(home, KEYDESK_LIMITS__CONNECTIONS="1100"), {}
    with copy.start():
        asked = {"desk": (copy, [copy.by_jwt()]), "bare": (bare, [bare.read])}
        for _ in range(2):
            for count in CONNECTIONS:
                for name, (server, requests) in asked.items():
                    taken = sample(progress, f"{name}, {count} connections", server, requests, count, 2)
                    found.setdefault((name, count), []).append(taken)
    copy.remove()

    def line(name, field):
        return [(count, statistics.mean(getattr(taken, field) for taken in found[name, count])) for count in CONNECTIONS]

    rates, slowest = ({name: line(name, field) for name in asked} for field in ("rate", "p99"))
    memory = dict(line("desk", "resident"))
    rows = [(count, f"{rate:,.0f}", f"{bare_rate:,.0f}", f"{rate / bare_rate:.2f}", f"{p99:.2f}", f"{bare_p99:.2f}",
             f"{memory[count]:.1f}")
            for (count, rate), (_, bare_rate), (_, p99), (_, bare_p99)
            in zip(rates["desk"], rates["bare"], slowest["desk"], slowest["bare"], strict=True)]
    return Curve(
        "Connections",
        "`GET /llm-keys` with a JWT beside the bare server, from 1 to 1024 connections that ask as fast as they are answered.",
        ["connections", "desk, per second", "bare, per second", "ratio", "desk p99 ms", "bare p99 ms", "desk MiB"], rows,
        {
            "connections-rate": plot.chart("Answers per second", "connections", "per second", list(rates.items()), log_x=True),
            "connections-p99": plot.chart("p99", "connections", "ms", list(slowest.items()), log_x=True, log_y=True),
        })


def principals(desk, home, progress):
    rows, lines = [], {"first reads": [], "warm": [], "a write each second": []}
    for count in PRINCIPALS:
        copy = desk.copy(home)
        requests = seed.principals(copy.database, count)
        with copy.start():
            put_providers(copy, 20)
            label = f"{count:,} principals"
            idle = copy.resident()
            first = sample(progress, f"{label}, first reads", copy, requests, 32, 2)
            # Until everybody has been there, but not for ever.
            for _ in range(10):
                if first.requests >= count or wrk.drive(copy, requests, 32, 3).requests >= count:
                    break
            warm = sample(progress, f"{label}, warm", copy, requests, 32, 4)
            headers = bearer(copy, "llm-keys:write")
            with repeating(1, functools.partial(put_provider, copy, "provider-0", headers)):
                written = sample(progress, f"{label}, a write each second", copy, requests, 32, 4)
        with copy.start():
            started = copy.started_in
        copy.remove()
        for line, taken in zip(lines.values(), (first, warm, written), strict=True):
            line.append((count, taken.rate))
        rows.append((f"{count:,}", *(f"{taken.rate:,.0f}" for taken in (first, warm, written)),
                     *(f"{taken.p99:.2f}" for taken in (first, warm, written)), f"{idle:.1f}", f"{warm.resident:.1f}",
                     f"{started:.0f}"))
    return Curve(
        "Principals",
        "`GET /llm-keys` with the API keys of so many principals in turn, 32 connections, a project of 24 provider keys: in the "
        "first two seconds after the start, when everybody has been there, and while an administrator sets a key every second, "
        "which makes all that is remembered of anybody's access stale.",
        ["principals", "first, per second", "warm, per second", "with writes, per second", "first, p99 ms", "warm, p99 ms",
         "with writes, p99 ms", "idle MiB", "warm MiB", "start ms"], rows,
        {"principals": plot.chart("Reads per second, 32 connections", "principals", "per second", list(lines.items()), log_x=True)})


def providers(desk, home, progress):
    copy, rows, points = desk.copy(home), [], []
    with copy.start():
        for variable in servers.PROVIDER_KEYS:
            admin(copy, "DELETE", variable.removesuffix("_API_KEY").lower())
        done = 0
        for count in PROVIDERS:
            put_providers(copy, count, done)
            done = count
            request = copy.by_jwt()
            taken = sample(progress, f"{count} provider keys", copy, [request], 32, 3)
            size = len(copy.must(request))
            points.append((count, taken.rate))
            rows.append((count, f"{size:,}", f"{taken.rate:,.0f}", f"{taken.p99:.2f}", f"{taken.cpu:.0f}"))
    copy.remove()
    return Curve(
        "Provider keys",
        "`GET /llm-keys` with a JWT of a principal that is granted so many, 32 connections.",
        ["provider keys", "bytes of the answer", "per second", "p99 ms", "server CPU µs per request"], rows,
        {"provider-keys": plot.chart("Reads per second, 32 connections", "provider keys", "per second", [("desk", points)],
                                     log_x=True)})


def processes(desk, home, progress):
    copy, rows, points, done = desk.copy(home), [], [], 0
    for count in COMMANDS:
        took = []
        for number in range(done, count):
            set_key = functools.partial(copy.run, "key", "set", "openai", stdin=f"sk-proj-{number}-Ab3dEf6hIj9kAb3dEf6hIj9k")
            took.append(timed(set_key) * 1000)
        done = count
        with copy.start():
            started = copy.started_in
        verified = timed(lambda: copy.run("audit", "verify")) * 1000
        progress.step(f"{count} commands: {statistics.median(took):.0f} ms each")
        points.append((count, statistics.median(took)))
        rows.append((count, f"{statistics.median(took):.0f}", f"{started:.0f}", f"{verified:.0f}"))
    copy.remove()
    return Curve(
        "Processes",
        "One server serves a desk. Every command is a process of its own, and what it writes is a stream of its own in the book: "
        "`keydesk key set` so many times, one after the other, while no server runs.",
        ["commands", "each ms", "start of a server ms", "`audit verify` ms"], rows,
        {"processes": plot.chart("Time of one command", "commands before", "ms", [("keydesk key set", points)], log_x=True)})


def events(desk, home, progress):
    copy, windows = desk.copy(home), []
    with copy.start():
        request, count, begun = copy.by_api_key, 0, time.monotonic()
        while count < EVENTS and time.monotonic() - begun < EVENTS_WITHIN:
            taken = sample(progress, f"{count:,} events", copy, [request], 256, WINDOW)
            size = sum(file.stat().st_size for file in copy.database.parent.glob("keydesk.db*")) / 2**20
            windows.append((count, taken, size))
            count += taken.requests
    with copy.start():
        started = copy.started_in
        reader = bearer(copy, "audit:read")
        newest, filtered = (timed(functools.partial(copy.must, servers.Request(f"/admin/audit-events?{query}", reader)))
                            for query in ("limit=20", "limit=20&principal=admin"))
    verified = timed(lambda: copy.run("audit", "verify"))
    copy.remove()
    progress.say(f"{count:,} events: verified in {verified:.0f} s")
    shown = windows[:: max(1, len(windows) // 12)]
    rows = [(f"{number:,}", f"{taken.rate:,.0f}", f"{taken.p50:.2f}", f"{taken.p99:.2f}", f"{size:,.0f}", f"{taken.resident:.1f}")
            for number, taken, size in shown]
    return Curve(
        "Events in the book",
        f"One desk under 256 connections that read keys until the book has {EVENTS:,} events, or for {EVENTS_WITHIN // 60} "
        f"minutes. Then, with {count:,} events: start to healthy in {started:.0f} ms, a page of the newest events in "
        f"{newest * 1000:.0f} ms, of one principal's in {filtered * 1000:.0f} ms, `keydesk audit verify` in {verified:.0f} s.",
        ["events", "reads per second", "p50 ms", "p99 ms", "database MiB", "resident MiB"], rows,
        {
            "events-rate": plot.chart("Reads per second, 256 connections", "events in the book", "per second",
                                      [("desk", [(number, taken.rate) for number, taken, _ in windows])]),
            "events-p99": plot.chart("Latency, 256 connections", "events in the book", "ms",
                                     [(field, [(number, getattr(taken, field)) for number, taken, _ in windows])
                                      for field in ("p50", "p99")]),
        })


def put_providers(copy, count, begin=0):
    headers = bearer(copy, "llm-keys:write")
    for number in range(begin, count):
        put_provider(copy, f"provider-{number}", headers)


def put_provider(copy, name, headers=None):
    body = json.dumps({"key": f"sk-{name}-" + "Ab3dEf6hIj9k" * 8})
    admin(copy, "PUT", name, body, headers)


def admin(copy, method, provider, body="", headers=None):
    headers = (headers or bearer(copy, "llm-keys:write")) + (("Content-Type", "application/json"),)
    status, answer = copy.ask(servers.Request(f"/admin/projects/default/keys/{provider}", headers, method, body))
    if status >= 300:
        raise RuntimeError(f"{method} {provider}: {status}\n{answer}")


def bearer(copy, scope):
    form = servers.login("admin", servers.ADMIN_PASSWORD, scope=scope)
    return (("Authorization", f"Bearer {json.loads(copy.must(form))['access_token']}"),)


def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@contextlib.contextmanager
def repeating(seconds, work):
    """Does `work` every so many seconds while something else is measured."""
    over = threading.Event()

    def run():
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
