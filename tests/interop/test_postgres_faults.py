"""Two processes lose their PostgreSQL in every way there is, under load: while it lasts every answer comes soon and hands
nothing over that is not in the book, and when it is over everything works again by itself.

A fault lasts some seconds; 30 s in the full form.
"""

import concurrent.futures
import contextlib
import threading
import time

import pytest
import requests

from conftest import FULL, PASSWORD, eventually
from history import check, digest, now, openai
from load import Load
from postgres import Desks, cluster, database  # noqa: F401
from proxy import Proxy

# Longer than anything is waited for, where there is anything to wait for.
LASTS = {"hang": 6, "blackhole": 6, "connections lost in a blackhole": 6}
# What is promised: how long an answer takes, and how long after the end of a fault everything works.
SOON, RECOVERED = 5, 5
SLACK = 2  # this machine is busy


class Pair:
    """Two processes, whose way to the database leads through a proxy."""

    def __init__(self, new_desk, cluster, name):  # noqa: F811
        self.cluster, self.name = cluster, name
        self.proxy = Proxy(cluster.port)
        self.desks = Desks(new_desk, cluster.url(name, self.proxy.port), 2)
        # The command line asks directly: it is not what is hurt.
        for desk in self.desks:
            desk.plain_env["DATABASE_URL"] = cluster.url(name)
        self.desks.start()

    def close(self):
        for desk in self.desks:
            desk.kill()
        self.proxy.close()

    # The faults: each is begun and ended.

    @contextlib.contextmanager
    def restarted(self, mode):
        self.cluster.stop(mode)
        try:
            yield
        finally:
            self.cluster.start()

    @contextlib.contextmanager
    def terminated(self):
        """Again and again; nothing is gone for longer than it takes to connect."""
        over = threading.Event()

        def terminate():
            while not over.wait(0.2):
                self.cluster.terminate_backends()

        thread = threading.Thread(target=terminate)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def paused(self):
        self.cluster.pause()
        try:
            yield
        finally:
            self.cluster.resume()

    @contextlib.contextmanager
    def blackholed(self, heal="heal"):
        self.proxy.blackhole()
        try:
            yield
        finally:
            getattr(self.proxy, heal)()

    @contextlib.contextmanager
    def refused(self):
        self.proxy.refuse()
        try:
            yield
        finally:
            self.proxy.accept()

    @contextlib.contextmanager
    def read_only(self):
        self.cluster.set_read_only(True)
        try:
            yield
        finally:
            self.cluster.set_read_only(False)

    def fault(self, name):
        return {
            "fast restart": lambda: self.restarted("fast"),
            "immediate restart": lambda: self.restarted("immediate"),
            "terminated backends": self.terminated,
            "hang": self.paused,
            "blackhole": self.blackholed,
            "connections lost in a blackhole": lambda: self.blackholed("heal_for_others"),
            "refused": self.refused,
            "fail-over to read-only": self.read_only,
        }[name]()


class Witness:
    """Asks one process for one thing again and again, and notes what it is told and how long that took."""

    def __init__(self, desk, method, path, **options):
        self.desk, self.request, self.options = desk, (method, path), options
        self.said, self.over = [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with requests.Session() as session:
            while not self.over.wait(0.1):
                begun = time.monotonic()
                method, path = self.request
                answer = session.request(method, f"{self.desk.url}{path}", timeout=40, **self.options)
                self.said.append((begun, time.monotonic() - begun, answer))

    def between(self, begin, end):
        """What was asked for in that time, or before and not yet answered."""
        return [(took, answer) for begun, took, answer in self.said if begun < end and begun + took > begin]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def witnesses(pair):
    """Of everything that needs the database, at both processes."""
    found = []
    for desk in pair.desks:
        key = {"X-API-Key": desk.service_api_key}
        token = {"Authorization": f"Bearer {desk.login(scope='admin llm-keys:read llm-keys:write')}"}
        form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
        found += [
            Witness(desk, "GET", "/llm-keys/openai", headers=key),
            Witness(desk, "GET", "/llm-keys", headers=token),
            Witness(desk, "POST", "/token", data=form),
            Witness(desk, "POST", "/revoke", data={"token": "kd_rt_none", "client_id": "keydesk"}),
            Witness(desk, "GET", "/admin/users", headers=token),
            Witness(desk, "PUT", "/admin/projects/default/keys/deepseek", headers=token, json={"key": "sk-CANARY" + "0" * 30}),
        ]
    return found


FAULTS = ["fast restart", "immediate restart", "terminated backends", "hang", "blackhole",
          "connections lost in a blackhole", "refused", "fail-over to read-only"]


@pytest.fixture(scope="module")
def pair(new_desk, cluster):  # noqa: F811
    running = Pair(new_desk, cluster, cluster.create_database())
    yield running
    running.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_losing_the_database_is_survived(pair, fault, tmp_path):
    desks = pair.desks
    before, since = (openai(desks[0]), digest(desks[0].get(
        "/llm-keys/openai", headers={"X-API-Key": desks[0].service_api_key}).json()["key"])), now()
    load = Load(desks[0], tmp_path, clients=30, go_on=True, pause=0.3, processes=1,
                mix={"read": 75, "refresh": 15, "rotate": 10})
    asked = witnesses(pair)
    health = [Witness(desk, "GET", "/health") for desk in desks]
    ready = [Witness(desk, "GET", "/health/ready") for desk in desks]
    with load, contextlib.ExitStack() as watching:
        load.wait_for(answers=50)
        for witness in asked + health + ready:
            watching.enter_context(witness)
        time.sleep(0.5)
        with pair.fault(fault):
            begun = time.monotonic()
            time.sleep(30 if FULL else LASTS.get(fault, 3))
            ended = time.monotonic()
        healed = time.monotonic()
        time.sleep(RECOVERED + 3)
        pair_over = time.monotonic()
        history = load.stop()

    refused = 0
    for witness in asked:
        what = (fault, *witness.request)
        assert witness.between(begun, ended), what
        for _, took, answer in witness.said:
            assert answer.status_code in (200, 201, 503), (*what, answer.status_code, answer.text)
            if answer.status_code == 503:
                refused += 1
                assert answer.headers.get("Retry-After", "").isdigit(), what
        slowest = max(took for took, _ in witness.between(begun - SOON, pair_over))
        assert slowest <= SOON + SLACK, (*what, slowest)
        # One that meets too many changes at once is told to come back at any time.
        after = [began - healed for began, _, answer in witness.said if began > healed and answer.status_code != 503]
        assert after and after[0] < RECOVERED and witness.said[-1][2].status_code != 503, (*what, after[:1])
    assert refused
    for witness in health:
        assert {answer.status_code for _, _, answer in witness.said} == {200}
        assert max(took for _, took, _ in witness.said) < 2
    if fault != "terminated backends":
        for witness in ready:
            said = [answer for took, answer in witness.between(begun, ended)]
            assert any(answer.status_code == 503 and answer.json()["checks"]["store"] != "ok" for answer in said), fault
    for witness in ready:
        assert {answer.status_code for _, answer in witness.between(healed + RECOVERED, pair_over)} == {200}
    recovery = max((begun - healed for witness in asked for begun, _, answer in witness.said
                    if answer.status_code == 503), default=0)
    print(f"{fault}: {refused} refused, slowest {max(took for w in asked for _, took, _ in w.said):.1f} s, "
          f"last refused {recovery:+.1f} s after the end; {history}", flush=True)
    assert pair.cluster.idle_in_transaction(longer_than=1) == []
    check(desks[0], history, before, since)
    desks.assert_sound()
    # Each has seen the same.
    for desk in desks:
        answer = desk.get("/llm-keys/openai", headers={"X-API-Key": desk.service_api_key})
        assert answer.json()["version"] == openai(desk)


def test_clients_that_leave_leave_no_transaction_open(pair, tmp_path):
    desk, cluster = pair.desks[0], pair.cluster  # noqa: F811
    known = (openai(desk), digest(desk.get("/llm-keys/openai", headers={"X-API-Key": desk.service_api_key}).json()["key"]))
    aborts, since = 5000 if FULL else 500, now()
    with Load(desk, tmp_path, clients=50, mix={"abort": 1}, requests=aborts // 2) as load:
        history = load.end(patience=300)
    assert load.answered() >= aborts
    assert eventually(lambda: cluster.idle_in_transaction(longer_than=0.2) == [])
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    assert eventually(lambda: cluster.query(waiting) == [["0"]])
    with requests.Session() as session:
        for number in range(1000 if FULL else 100):
            answer = session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=30)
            assert answer.status_code == 200, (number, answer.status_code, answer.text)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        logins = list(pool.map(lambda _: desk.token_response(
            data={"grant_type": "password", "username": "admin", "password": PASSWORD}).status_code, range(6)))
    assert logins == [200] * 6
    check(desk, history, known, since)


def test_few_connections_and_many_clients(new_desk, cluster, database, tmp_path):  # noqa: F811
    """The server allows a few connections only, fewer than a process would like: whoever waits for one is told soon to come
    back, nobody waits for a second one while holding the first, and when there are more everything works again."""
    few = cluster.create_role(database)
    desk, = Desks(new_desk, cluster.url(database, user=few), 1).start()
    # The command line needs connections, too.
    desk.plain_env["DATABASE_URL"] = cluster.url(database)
    known, since = (openai(desk), digest(desk.keys["OPENAI_API_KEY"])), now()
    load = Load(desk, tmp_path, clients=500, go_on=True, mix={"read": 70, "login": 5, "refresh": 10, "rotate": 10, "public": 5})
    with load, Witness(desk, "GET", "/health") as health, Witness(
            desk, "GET", "/llm-keys", headers={"X-API-Key": desk.service_api_key}) as reader:
        load.wait_for(answers=500, within=120)
        cluster.limit_connections(few, 4)
        time.sleep(5)
        during = load.answered()
        time.sleep(3)
        assert load.answered() > during, "nobody got anything any more"
        cluster.limit_connections(few, -1)
        time.sleep(3)
        history = load.stop()
    assert {answer.status_code for _, _, answer in health.said} == {200}
    assert {answer.status_code for _, _, answer in reader.said} <= {200, 503}
    assert max(took for _, took, _ in reader.said) <= SOON + SLACK
    print(f"4 connections, 500 clients: {history}", flush=True)
    assert history.reads and history.acknowledged
    answer = desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key})
    assert answer.status_code == 200, answer.text
    assert cluster.idle_in_transaction(longer_than=1) == []
    check(desk, history, known, since)
    assert desk.stop() == 0
