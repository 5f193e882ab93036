"""HTTP as bytes: requests that a well-behaved client library would refuse to send."""

import contextlib
import http.client
import select
import socket
import time


class Answer:
    """A response; `status` is None if the server closed the connection without one."""

    def __init__(self, status, headers, body, seconds):
        self.status, self.headers, self.body, self.seconds = status, headers, body, seconds

    @property
    def media_type(self):
        return self.headers.get("content-type")

    def everything(self):
        """Headers and body, to search for what must not be echoed."""
        return repr(sorted(self.headers.items())).encode() + self.body


def header_block(method, target, headers):
    lines = [f"{method} {target} HTTP/1.1".encode() if isinstance(target, str) else method.encode() + b" " + target + b" HTTP/1.1"]
    for name, value in headers:
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def send(port, method, target, headers=(), body=b"", chunked=False, timeout=20):
    """One request on its own connection. `headers` are pairs, so that one can be sent twice; a `body` may be an iterable
    of pieces, and then what it adds up to must be in a Content-Length of the caller's."""
    headers = [("Host", f"127.0.0.1:{port}"), ("Connection", "close"), *headers]
    pieces = [body] if isinstance(body, bytes) else body
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
        pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
    elif isinstance(body, bytes) and (body or method in ("POST", "PUT", "PATCH")):
        headers.append(("Content-Length", str(len(body))))
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        # A server that refuses early answers while we still send, then closes; what it said must be read all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(header_block(method, target, headers))
            for piece in pieces:
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(piece)
        return read(connection, method, begun)


def read(connection, method, begun):
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except (http.client.BadStatusLine, ConnectionResetError):
        return Answer(None, {}, b"", time.monotonic() - begun)
    headers = {}
    for name, value in response.getheaders():
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return Answer(response.status, headers, body, time.monotonic() - begun)
