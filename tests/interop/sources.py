"""Clients at many addresses: all of 127.0.0.0/8 is this machine, and to the desk each of its addresses is another client."""

import http.client
import itertools
import json
import time
import urllib.parse

import canaries

NUMBERS = itertools.count(1)


def fresh_source():
    """An address that nothing has come from yet."""
    number = next(NUMBERS)
    assert number < 1 << 16
    return f"127.77.{number >> 8}.{number & 255}"


class Reply:
    def __init__(self, response, seconds):
        self.status, self.body, self.seconds = response.status, response.read(), seconds
        self.headers = [(name.lower(), value) for name, value in response.getheaders()]

    def header(self, name):
        return next((value for header, value in self.headers if header == name.lower()), None)

    def json(self):
        return json.loads(self.body)

    @property
    def retry_after(self):
        """Checked here, because every refusal of this kind has to say it."""
        value = self.header("retry-after")
        assert value and value.isdigit() and int(value) >= 1, self.headers
        return int(value)


class Client:
    """One connection, from one address."""

    def __init__(self, desk, source=None):
        self.source = source or fresh_source()
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", desk.port, timeout=60, source_address=(self.source, 0)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def request(self, method, path, body=None, **headers):
        begun = time.perf_counter()
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        reply = Reply(response, time.perf_counter() - begun)
        canaries.remember_body(body, f"{method} {path}")
        canaries.remember_body(reply.body, f"the answer to {method} {path}")
        return reply

    def form(self, path, **fields):
        body = urllib.parse.urlencode({name: value for name, value in fields.items() if value is not None})
        return self.request("POST", path, body.encode(), **{"Content-Type": "application/x-www-form-urlencoded"})

    def token(self, **fields):
        return self.form("/token", **fields)

    def login(self, username, password, **more):
        return self.token(grant_type="password", username=username, password=password, **more)


def login(desk, username, password, source=None, **more):
    """One attempt on a connection of its own."""
    with Client(desk, source) as client:
        return client.login(username, password, **more)
