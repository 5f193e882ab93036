"""How long a refusal takes says nothing: of a user who exists and one who does not, of a disabled one, of a known client.

Pairs of attempts, one of either kind, in random order, on connections kept open; the differences are compared by Wilcoxon's
signed-rank test, and a control compares like with like. No time is expected to be anything in itself.

Pairs of each kind: 40, or 200 in the full form, which wants a machine that does nothing else.
"""

import concurrent.futures
import math
import random
import secrets

import numpy
import pytest
from scipy import stats

from conftest import rounds
from sources import Client, fresh_source

PAIRS = max(20, min(500, rounds(40, 200)))
WARM_UP = 4
RUNS = 3
# Where failures of one user begin to matter to other addresses (30), with room.
ATTEMPTS_PER_USER = 25
SEED = 20260
WRONG = "a wrong password it is"


class Names:
    """User names that are handed out as often as the desk allows without slowing anybody."""

    def __init__(self, names):
        self.names, self.used = names, 0

    def next(self):
        name = self.names[self.used // ATTEMPTS_PER_USER]
        self.used += 1
        return name


def needed(attempts):
    return math.ceil(attempts / ATTEMPTS_PER_USER)


@pytest.fixture(scope="module")
def quiet_desk(new_desk):
    desk = new_desk(RUST_LOG="warn").start()
    yield desk
    desk.stop()


@pytest.fixture(scope="module")
def people(quiet_desk):
    """Everybody who is needed for all runs."""
    attempts = RUNS * (PAIRS + WARM_UP)
    counts = {"existing": needed(4 * attempts) + 1, "disabled": needed(attempts) + 1}
    names = {kind: [f"{kind}-{secrets.token_hex(4)}" for _ in range(count)] for kind, count in counts.items()}

    def add(name):
        password = f"{secrets.token_hex(12)} it is\n"
        quiet_desk.cli("user", "add", name, "--project", "default", "--password-stdin", stdin=password)
        if name.startswith("disabled"):
            quiet_desk.cli("user", "disable", name)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(add, names["existing"] + names["disabled"]))
    names["unknown"] = [f"unknown-{secrets.token_hex(4)}" for _ in range(counts["disabled"])]
    machine = quiet_desk.cli_json("service-account", "add", "timed", "--project", "default")
    return {kind: Names(every) for kind, every in names.items()} | {"machine": machine}


def timed_login(desk, username):
    """A refused login on a connection that is already open, from an address of its own."""
    with Client(desk) as client:
        assert client.request("GET", "/health").status == 200
        reply = client.login(username, WRONG)
        assert reply.status == 400 and reply.json()["error"] == "invalid_grant", reply.body
        return reply.seconds


def timed_client(desk, client_id, client_secret):
    with Client(desk) as client:
        assert client.request("GET", "/health").status == 200
        reply = client.token(grant_type="client_credentials", client_id=client_id, client_secret=client_secret)
        assert reply.status == 401 and reply.json()["error"] == "invalid_client", reply.body
        return reply.seconds


def other_secret(text):
    """The same length and a right checksum are not needed to be refused; the same form is."""
    return text[:-1] + ("a" if text[-1] != "a" else "b")


def pairs_of(desk, people):
    """Per kind, what is compared with what."""
    existing = lambda: timed_login(desk, people["existing"].next())  # noqa: E731
    client_id, client_secret = people["machine"]["client_id"], people["machine"]["client_secret"]
    wrong = other_secret(client_secret)
    return {
        "control": (existing, existing),
        "unknown": (existing, lambda: timed_login(desk, people["unknown"].next())),
        "disabled": (existing, lambda: timed_login(desk, people["disabled"].next())),
        "client": (lambda: timed_client(desk, client_id, wrong), lambda: timed_client(desk, f"{client_id}x", wrong)),
    }


def measure(kinds, pairs, chance):
    """Differences in seconds, `pairs` of each kind, the kinds interleaved too."""
    differences = {kind: [] for kind in kinds}
    for number in range(pairs + WARM_UP):
        for kind in chance.sample(sorted(kinds), len(kinds)):
            one, other = kinds[kind]
            if chance.random() < 0.5:
                a = one()
                b = other()
            else:
                b = other()
                a = one()
            if number >= WARM_UP:
                differences[kind].append(a - b)
    return {kind: numpy.array(values) for kind, values in differences.items()}


def verdict(differences):
    """(whether nothing was found, how it came out): p > 0.001, or a median difference under a millisecond."""
    p = stats.wilcoxon(differences).pvalue
    median = float(numpy.median(differences))
    interval = stats.bootstrap(
        (differences,), numpy.median, n_resamples=2000, method="percentile", rng=numpy.random.default_rng(SEED)
    ).confidence_interval
    shown = f"p={p:.4f}, median {median * 1000:+.2f} ms [{interval.low * 1000:+.2f}, {interval.high * 1000:+.2f}]"
    return bool(p > 0.001 or abs(median) < 0.001), shown


def two_of_three(sample):
    """Runs until two say the same; the control has to pass with them."""
    results, shown, last = {}, [], None
    for run in range(RUNS):
        last = sample(run)
        for kind, differences in last.items():
            passed, text = verdict(differences)
            results.setdefault(kind, []).append(passed)
            shown.append(f"run {run + 1} {kind}: {text}")
        decided = all(max(outcomes.count(True), outcomes.count(False)) >= 2 for outcomes in results.values())
        if decided:
            break
    print("\n".join(shown))
    failed = [kind for kind, outcomes in results.items() if outcomes.count(True) < 2]
    assert not failed, (failed, shown)
    return last


def test_a_refused_login_takes_as_long_whoever_it_is_for(quiet_desk, people):
    chance = random.Random(SEED)
    kinds = pairs_of(quiet_desk, people)
    last = two_of_three(lambda _: measure(kinds, PAIRS, chance))
    # The comparison can fail: half of what a login takes, which is less than its hash, is found.
    with Client(quiet_desk) as client:
        client.request("GET", "/health")
        whole = client.login(people["existing"].next(), WRONG).seconds
    assert not verdict(last["control"] + whole / 2)[0]


def test_a_throttled_login_takes_as_long_whoever_it_is_for(quiet_desk, people):
    """Compared with each other: a refusal without a hash is quicker, and may be."""
    existing = people["existing"].next()
    unknown = f"nobody-{secrets.token_hex(4)}"
    chance = random.Random(SEED)

    def closed(username):
        client = Client(quiet_desk, fresh_source())
        while client.login(username, WRONG).status == 400:
            pass
        return client

    def sample(_):
        """A few pairs at a time, within the second for which the desk closes."""
        differences, batches = [], 0
        while len(differences) < PAIRS:
            batches += 1
            assert batches <= 3 * PAIRS, "the throttle never stayed closed"
            with closed(existing) as one, closed(unknown) as other:
                for _ in range(10):
                    first, second = chance.sample([(one, existing, 1), (other, unknown, -1)], 2)
                    replies = [(client.login(name, WRONG), sign) for client, name, sign in (first, second)]
                    if any(reply.status != 429 for reply, _ in replies):
                        break
                    differences.append(sum(reply.seconds * sign for reply, sign in replies))
        return {"throttled": numpy.array(differences[:PAIRS])}

    two_of_three(sample)
