"""SIGTERM: the desk says that it is not ready, finishes what it has accepted, waits for nobody who only holds on, and ends."""

import contextlib
import http.client
import signal
import socket
import threading
import time

import pytest
import requests

from conftest import PASSWORD


def ready(desk):
    return requests.get(f"{desk.url}/health/ready", timeout=5).status_code


def test_a_drain_under_load_loses_nothing_and_waits_for_nobody(new_desk):
    desk = new_desk(KEYDESK_SERVER__DRAIN_DELAY="2s", RUST_LOG="info").start()
    key = {"X-API-Key": desk.service_api_key}
    form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
    stop, failures, served = threading.Event(), [], []

    def keep_asking():
        """Over connections that are kept, and given up when the desk says so."""
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", desk.port, timeout=20)
            try:
                connection.connect()
            except OSError:
                break  # it accepts no more
            with contextlib.closing(connection):
                for _ in range(50):
                    try:
                        connection.request("GET", "/llm-keys", headers=key)
                        answer = connection.getresponse()
                        answer.read()
                    except Exception as error:  # noqa: BLE001
                        failures.append((repr(error), time.monotonic()))
                        return
                    served.append(answer.status)
                    if answer.status != 200:
                        failures.append(answer.status)
                    if answer.getheader("Connection") == "close":
                        break
                    time.sleep(0.02)

    def log_in():
        while not stop.is_set():
            try:
                answer = requests.post(f"{desk.url}/token", data=form, timeout=20)
            except requests.ConnectionError:
                break
            served.append(answer.status_code)
            if answer.status_code != 200:
                failures.append(answer.text)

    # These hold on: in the middle of a header, of a body, silent, idle.
    holders = []
    for first in (b"GET / HTTP/1.1\r\nHost: loc", b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
                  b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\na"):
        holders.append(socket.create_connection(("127.0.0.1", desk.port)))
        holders[-1].sendall(first)
    threads = [threading.Thread(target=keep_asking) for _ in range(4)] + [threading.Thread(target=log_in)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert ready(desk) == 200
    desk.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    time.sleep(0.3)
    assert ready(desk) == 503, "it says so while it still accepts"
    assert requests.get(f"{desk.url}/llm-keys", headers=key, timeout=5).status_code == 200
    assert desk.process.wait(20) == 0
    taken = time.monotonic() - begun
    stop.set()
    for thread in threads:
        thread.join()
    for holder in holders:
        holder.close()
    assert 1.9 < taken < 6, "nobody who only holds on is waited for"
    assert failures == [] and len(served) > 50
    events = desk.cli_json("audit", "list", "--limit", "1")
    assert events[0]["action"] == "server.stop"
    reads = desk.cli_json("audit", "list", "--action", "llm_keys.read", "--limit", "1000")
    assert len(reads) >= served.count(200) / 3


@pytest.mark.parametrize("first, expected", [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_ctrl_c_does_not_delay_and_a_second_signal_ends_at_once(new_desk, first, expected):
    desk = new_desk(KEYDESK_SERVER__DRAIN_DELAY="1m").start()
    desk.process.send_signal(first)
    if first == signal.SIGTERM:
        time.sleep(0.5)
        assert desk.process.poll() is None and ready(desk) == 503
        desk.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert desk.process.wait(10) == expected
    assert time.monotonic() - begun < 5
