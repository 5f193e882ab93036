"""`keydesk health`: what containers and scripts ask, and the two exit codes that they know."""

import http.server
import json
import signal
import threading

import pytest

from conftest import eventually
from test_edge_tls import TlsDesk


def health(desk, *arguments, **environment):
    """Where a desk and its health check have the same configuration, as in a container."""
    desk.plain_env = {**desk.plain_env, "KEYDESK_SERVER__LISTEN": f"127.0.0.1:{desk.port}", **environment}
    done = desk.run("health", *arguments)
    assert done.stderr.count("\n") == (done.returncode != 0), done.stderr
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_desk_is_ready_until_it_goes(new_desk):
    desk = new_desk(KEYDESK_SERVER__DRAIN_DELAY="60s")
    code, said = health(desk)
    assert code == 1 and said == f"keydesk: {desk.url} cannot be reached: Connection refused (os error 111)"
    desk.start()
    assert health(desk) == (0, "ready")
    # A proxy is for others: nobody asks it about this machine.
    assert health(desk, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9") == (0, "ready")
    assert health(desk, desk.url) == (0, "ready")
    code, said = health(desk, "--json")
    assert code == 0 and json.loads(said)["checks"]["store"] == "ok"
    desk.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: health(desk) == (1, "keydesk: not ready: draining"), within=20)


@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]"])
def test_an_address_that_is_every_address_is_asked_here(new_desk, listen):
    desk = new_desk(KEYDESK_SERVER__INSECURE_LISTEN="true").start()
    everywhere = {"KEYDESK_SERVER__LISTEN": f"{listen}:{desk.port}", "KEYDESK_SERVER__INSECURE_LISTEN": "true"}
    code, said = health(desk, **everywhere)
    if listen == "0.0.0.0":
        assert (code, said) == (0, "ready")
    else:
        # It listens on the other loopback address.
        assert code == 1 and f"http://[::1]:{desk.port} cannot be reached" in said


def test_its_own_certificate_is_taken_and_that_of_another_desk_has_to_prove_itself(new_desk):
    tls = TlsDesk(new_desk).start()
    desk = tls.desk
    own = {"KEYDESK_TLS__CERT_FILE": tls.certificate, "KEYDESK_TLS__KEY_FILE": tls.key}
    assert health(desk, **own) == (0, "ready")
    code, said = health(desk, tls.url)
    assert code == 1 and "does not prove that it is the desk" in said
    assert health(desk, tls.url, "--ca-file", tls.ca) == (0, "ready")
    assert health(desk, tls.url, KEYDESK_CA_FILE=tls.ca) == (0, "ready")
    # The system's authorities, which in an image are where this variable says.
    desk.plain_env.pop("KEYDESK_CA_FILE")
    assert health(desk, tls.url, SSL_CERT_FILE=tls.ca) == (0, "ready")


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("body", [b"ok", b'{"status":"not_ready","checks":{}}', b'{"status":"ready"}'])
def test_what_is_no_desk_is_not_ready(new_desk, body):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    server.body = body
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        code, _ = health(new_desk(), f"http://127.0.0.1:{server.server_port}")
        assert code == 1
    finally:
        server.shutdown()
        server.server_close()
