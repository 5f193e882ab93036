"""HTTP/1 as no client would send it: whoever stands in front must not be able to see other requests in it than the desk.

Each case is bytes on one connection. A request that could be read in two ways is refused, or answered and followed by
nothing: a second answer would belong to a request that was smuggled in.
"""

import re
import shutil
import socket
import subprocess
import time

import pytest

HOST = b"Host: localhost\r\n"
HIDDEN = b"GET /health?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
POST = b"POST /token HTTP/1.1\r\n" + HOST + FORM


def get(*lines, target=b"/health", host=HOST):
    return b"GET " + target + b" HTTP/1.1\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines, body=b""):
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunks(body=b"a=b"):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


# Refused (4xx, or closed without a word), and nothing that follows is answered.
REFUSED = {
    "two lengths": post(b"Content-Length: 3", b"Content-Length: 4", body=b"a=b" + HIDDEN),
    "a list of lengths": post(b"Content-Length: 3, 4", body=b"a=b" + HIDDEN),
    "a negative length": post(b"Content-Length: -1", body=HIDDEN),
    "a length with a plus": post(b"Content-Length: +3", body=b"a=b" + HIDDEN),
    "a length in hexadecimal": post(b"Content-Length: 0x3", body=b"a=b" + HIDDEN),
    "a length that overflows": post(b"Content-Length: 18446744073709551616", body=HIDDEN),
    "a length with a blank": post(b"Content-Length: 3 3", body=b"a=b" + HIDDEN),
    "a length that is empty": post(b"Content-Length: ", body=HIDDEN),
    "a blank before the colon": post(b"Content-Length : 3", body=b"a=b" + HIDDEN),
    "a blank before the colon of the coding": post(b"Transfer-Encoding : chunked", body=chunks() + HIDDEN),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=chunks() + HIDDEN),
    "identity": post(b"Transfer-Encoding: identity", body=HIDDEN),
    "chunked is not last": post(b"Transfer-Encoding: chunked, gzip", body=chunks() + HIDDEN),
    "a coding with a control character": post(b"Transfer-Encoding: \x0bchunked", body=chunks() + HIDDEN),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked", body=chunks() + HIDDEN),
    "a chunk size that is none": post(b"Transfer-Encoding: chunked", body=b"zz\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a negative chunk size": post(b"Transfer-Encoding: chunked", body=b"-3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a chunk size that overflows": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a chunk that is longer than it says": post(b"Transfer-Encoding: chunked", body=b"1\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a chunk size with 0x": post(b"Transfer-Encoding: chunked", body=b"0x3\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "a coding in HTTP/1.0": b"POST /token HTTP/1.0\r\n" + HOST + FORM + b"Transfer-Encoding: chunked\r\n\r\n" + chunks() + HIDDEN,
    "no host": get(host=b"") + HIDDEN,
    "two hosts": get(b"Host: localhost") + HIDDEN,
    "an empty host": get(host=b"Host: \r\n") + HIDDEN,
    "a host with a path": get(host=b"Host: localhost/#@x\r\n") + HIDDEN,
    "a host with a user": get(host=b"Host: x@localhost\r\n") + HIDDEN,
    "a foreign authority": get(target=b"http://evil.example/health") + HIDDEN,
    "a header without a colon": get(b"X-Nothing") + HIDDEN,
    "a header name with a blank": get(b"X Y: 1") + HIDDEN,
    "a header that is folded": get(b"X-Folded: a", b" b") + HIDDEN,
    "a folded first header": b"GET /health HTTP/1.1\r\n " + HOST + b"\r\n" + HIDDEN,
    "NUL in a header": get(b"X-Null: a\0b") + HIDDEN,
    "a bare CR in a header": get(b"X-Return: a\rb") + HIDDEN,
    "NUL in the target": get(target=b"/health\0") + HIDDEN,
    "no version": b"GET /health\r\n" + HOST + b"\r\n" + HIDDEN,
    "HTTP/1.2": b"GET /health HTTP/1.2\r\n" + HOST + b"\r\n" + HIDDEN,
    "HTTP/9": b"GET /health HTTP/9.0\r\n" + HOST + b"\r\n" + HIDDEN,
    "lower case": b"GET /health http/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    "two blanks": b"GET  /health HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    "HTTP/2 in the clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a method that is none": b"G\x00T /health HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
    "a compressed body": post(b"Content-Encoding: gzip", b"Content-Length: 3", body=b"a=b" + HIDDEN),
    "a body that is too long": post(b"Content-Length: 7000000", body=HIDDEN),
    "a long target": get(target=b"/" + b"a" * 9000) + HIDDEN,
    "long headers": get(b"X-Long: " + b"a" * 17_000) + HIDDEN,
    "many headers": get(*[b"X-%d: 1" % n for n in range(70)]) + HIDDEN,
    "a tunnel": b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    "a trace": b"TRACE /health HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
}

# Read one way by everybody who follows RFC 9112, but not by everybody: answered, and then the connection is closed.
CLOSED = {
    "length and coding": post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=chunks() + HIDDEN),
    "coding and length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=chunks() + HIDDEN),
    "a coding in capitals": post(b"Transfer-Encoding: CHUNKED", body=chunks() + HIDDEN),
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=chunks() + HIDDEN),
    "a chunk with an extension": post(b"Transfer-Encoding: chunked", body=b"3;x=y\r\na=b\r\n0\r\n\r\n" + HIDDEN),
    "trailers": post(b"Transfer-Encoding: chunked", body=b"3\r\na=b\r\n0\r\nHost: evil.example\r\n\r\n" + HIDDEN),
    "no more": get(b"Connection: close") + HIDDEN,
    "HTTP/1.0": b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n" + HIDDEN,
}

# Plain pipelining: two requests, two answers.
ANSWERED = {
    "pipelined": get() + HIDDEN,
    "pipelined after a body": post(b"Content-Length: 3", body=b"a=b") + HIDDEN,
    "an upgrade that is not wanted": get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk") + HIDDEN,
    "a method in a header": get(b"X-HTTP-Method-Override: DELETE") + HIDDEN,
}


def converse(port, data, patience=1.5):
    """Sends it and reads what comes until there is silence: the statuses, and whether the connection was closed."""
    heard, closed = b"", False
    with socket.create_connection(("127.0.0.1", port), patience) as connection:
        try:
            connection.sendall(data)
            while not closed:
                piece = connection.recv(65536)
                heard, closed = heard + piece, not piece
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", heard)], closed, heard


@pytest.mark.parametrize("case", REFUSED)
def test_refused(desk, case):
    statuses, closed, heard = converse(desk.port, REFUSED[case])
    assert len(statuses) <= 1 and all(400 <= status < 500 for status in statuses), heard
    assert closed, heard
    if b"\r\n\r\n" in heard and heard.partition(b"\r\n\r\n")[2]:
        assert b"x-request-id: req_" in heard.lower()
        assert b"application/problem+json" in heard or b'"error"' in heard


@pytest.mark.parametrize("case", CLOSED)
def test_answered_and_closed(desk, case):
    statuses, closed, heard = converse(desk.port, CLOSED[case])
    assert len(statuses) == 1 and closed, heard


@pytest.mark.parametrize("case", ANSWERED)
def test_answered_twice(desk, case):
    statuses, _, heard = converse(desk.port, ANSWERED[case])
    assert len(statuses) == 2 and statuses[1] == 200, heard


@pytest.mark.parametrize("headers, status", [
    ([b"Content-Length: 65536"], 415), ([b"Content-Length: 65537"], 413), ([b"Content-Length: 100000000"], 413),
])
def test_a_body_is_announced_and_only_wanted_if_it_fits(desk, headers, status):
    """`Expect: 100-continue`: the client waits to be told whether to send."""
    request = b"POST /admin/users HTTP/1.1\r\n" + HOST + b"Content-Type: text/plain\r\nExpect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", desk.port), 5) as connection:
        connection.sendall(request + b"".join(line + b"\r\n" for line in headers) + b"\r\n")
        said = connection.recv(4096)
        if status != 413:
            assert said.startswith(b"HTTP/1.1 100 Continue\r\n"), said
            connection.sendall(b"a" * 65536)
            said = connection.recv(4096)
        assert said.startswith(b"HTTP/1.1 %d " % (401 if status == 415 else status)), said


def test_sizes_have_words(desk):
    for request, status in [
        (REFUSED["a long target"], 414), (REFUSED["long headers"], 431), (REFUSED["many headers"], 431),
        (REFUSED["a trace"], 405), (REFUSED["a foreign authority"], 400),
        (get(host=b"Host: evil.example\r\n", target=b"/llm-keys"), 421),
    ]:
        statuses, _, heard = converse(desk.port, request)
        assert statuses == [status] and b"application/problem+json" in heard, heard


# Behind a proxy: whatever it lets through, the desk answers as often as the proxy was asked.

PROXIES = {
    "nginx": """
daemon off; pid {home}/nginx.pid; error_log {home}/nginx.log;
events {{}}
http {{
    access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
    uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    upstream desk {{ server 127.0.0.1:{desk}; keepalive 4; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://desk; proxy_http_version 1.1;
        proxy_set_header Connection ""; proxy_set_header Host localhost; }} }}
}}
""",
    "haproxy": """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend desk
backend desk
    server desk 127.0.0.1:{desk}
""",
}
START = {"nginx": ["-c"], "haproxy": ["-db", "-f"]}


def requests_for_health(desk):
    time.sleep(0.1)  # the log gathers its lines
    return desk.log.read_text().count('route="/health"')


@pytest.mark.parametrize("name", PROXIES)
def test_behind_a_proxy(desk, tmp_path, name):
    program = shutil.which(name, path="/usr/sbin:/usr/bin")
    assert program, f"scripts/test installs {name}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path / "proxy.conf"
    configuration.write_text(PROXIES[name].format(home=tmp_path, port=port, desk=desk.port))
    proxy = subprocess.Popen([program, *START[name], str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        for case, data in {**REFUSED, **CLOSED}.items():
            before = requests_for_health(desk)
            statuses, _, heard = converse(port, data, patience=1)
            # The hidden request is one of its own only where the proxy itself has seen it as one, and then it is answered.
            after = requests_for_health(desk)
            assert after - before <= max(len(statuses), bool(heard)), (case, heard)
            # The connection that the proxy keeps to the desk is still in step: the next answer is to the next question.
            statuses, _, heard = converse(port, get(b"Connection: close", target=b"/openapi.json"))
            assert statuses == [200] and b'"openapi"' in heard, (case, heard[:300])
    finally:
        proxy.terminate()
        proxy.wait(10)
