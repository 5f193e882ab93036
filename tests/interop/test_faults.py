"""What an operator's bad day looks like: silent clients, variables that come and go."""

import socket
import time

import pytest
import requests

from conftest import Desk


@pytest.fixture
def fresh(tmp_path):
    made = []

    def make(**settings):
        desk = Desk(tmp_path / f"desk{len(made)}", **settings)
        made.append(desk)
        return desk

    yield make
    for desk in made:
        desk.kill()


def read(desk, key=None):
    return requests.get(f"{desk.url}/llm-keys", headers={"X-API-Key": key or desk.service_api_key}, timeout=30)


@pytest.mark.parametrize("first_bytes", [b"", b"P", b"PRI * HTTP/2.0\r\n\r\nS", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow"])
def test_a_client_that_says_nothing_more_is_cut(fresh, first_bytes):
    desk = fresh().start()
    begun = time.monotonic()
    clients = [socket.create_connection(("127.0.0.1", desk.port)) for _ in range(20)]
    for client in clients:
        client.sendall(first_bytes)
    assert requests.get(f"{desk.url}/health", timeout=5).status_code == 200
    for client in clients:
        client.settimeout(20)
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert time.monotonic() - begun < 15


def test_a_deleted_key_stays_deleted_until_its_variable_changes(fresh):
    desk = fresh().start()
    desk.cli("key", "delete", "openai")
    desk.stop()
    desk.start()
    assert "openai" not in read(desk).json()
    desk.stop()
    desk.env["OPENAI_API_KEY"] = "sk-proj-another0123456789"
    desk.start()
    assert read(desk).json()["openai"] == "sk-proj-another0123456789"


def test_the_service_key_is_the_one_of_the_environment(fresh):
    desk = fresh().start()
    first, second = desk.service_api_key, "svc-second-0123456789abcdef"
    for wanted, gone in ((second, first), (first, second)):
        desk.stop()
        desk.env["SERVICE_API_KEY"] = wanted
        desk.start()
        assert read(desk, wanted).status_code == 200
        assert read(desk, gone).status_code == 401
    desk.cli("service-account", "delete", "default")
    desk.stop()
    desk.start()
    assert read(desk, first).status_code == 401, "deleted, and the variable has not changed"


@pytest.mark.parametrize("value", ["kd_service_shared_secret_01", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"])
def test_a_service_key_that_could_be_taken_for_ours_is_refused(fresh, value):
    desk = fresh(SERVICE_API_KEY=value)
    with pytest.raises(AssertionError, match="SERVICE_API_KEY is not imported"):
        desk.start()
    assert not (desk.data / "keydesk.db").exists()
