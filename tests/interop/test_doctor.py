"""`keydesk doctor`: every thing that can be wrong is named, with what to do."""

import contextlib
import datetime
import http.server
import json
import ssl
import subprocess
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conftest import BINARY, PASSWORD, free_port


@pytest.fixture(scope="module")
def client(desk):
    return {**desk.plain_env, "KEYDESK_URL": desk.url, "KEYDESK_API_KEY": desk.service_api_key}


def examined(env, *arguments):
    """The exit code, and what was found by check."""
    done = subprocess.run([BINARY, "doctor", "--json", *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    wrong = any(finding["verdict"] == "wrong" for finding in found.values())
    assert done.returncode == (1 if wrong else 0)
    return {check: finding["verdict"] for check, finding in found.items()}, found


def wrong(env, *arguments):
    """The only thing that is wrong, and what is said about it."""
    verdicts, found = examined(env, *arguments)
    ill = [check for check, verdict in verdicts.items() if verdict == "wrong"]
    assert len(ill) == 1, found
    return ill[0], f"{found[ill[0]]['what']} -> {found[ill[0]].get('advice')}"


def test_all_is_well(desk, client):
    reads = len(desk.cli_json("audit", "list", "--action", "llm_keys.read", "--limit", "100"))
    verdicts, found = examined({**client, "KEYDESK_URL": desk.url.replace("127.0.0.1", "localhost")})
    assert verdicts == dict.fromkeys(
        ["profile", "name", "connection", "clock", "desk", "ready", "credential", "grants"], "well")
    assert "default" in found["grants"]["what"] and "localhost is " in found["name"]["what"]
    after = len(desk.cli_json("audit", "list", "--action", "llm_keys.read", "--limit", "100"))
    assert after == reads, "no key is fetched"
    told = subprocess.run([BINARY, "doctor"], env=client, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and told.stdout.count("\nwell ") >= 6
    assert desk.service_api_key not in told.stdout


def test_a_session(desk, tmp_path):
    env = {**desk.plain_env, "HOME": str(tmp_path)}
    assert wrong(env) == ("profile", "you are not logged in at any desk; run: keydesk login URL -> None")
    done = subprocess.run([BINARY, "login", desk.url, "--username", "admin", "--password-stdin"],
                          env=env, input=PASSWORD + "\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    verdicts, found = examined(env)
    assert verdicts["session"] == "well", found
    # Somebody may look into it.
    state = tmp_path / ".local" / "state" / "keydesk"
    state.chmod(0o755)
    check, told = wrong(env)
    assert check == "files" and "chmod go=" in told, told
    state.chmod(0o700)
    # It is of another machine: what it is sealed with is not the same.
    (state / "salt").unlink()
    check, told = next((check, f"{finding['what']} {finding.get('advice')}") for check, finding in examined(env)[1].items()
                       if finding["verdict"] == "wrong")
    assert check == "session" and "keydesk login" in told


def test_what_is_said_of_who_one_is_has_to_fit(client):
    check, told = wrong({**client, "KEYDESK_CLIENT_ID": "ci"})
    assert check == "profile" and "KEYDESK_API_KEY and KEYDESK_CLIENT_ID" in told
    assert "KEYDESK_URL" in wrong({name: value for name, value in client.items() if name != "KEYDESK_URL"})[1]
    assert "https://" in wrong({**client, "KEYDESK_URL": "desk.example.com"})[1]
    check, told = wrong({**client, "KEYDESK_URL": "http://desk.example.com"})
    assert check == "profile" and "another machine" in told


def test_a_name_that_nobody_knows(client):
    check, told = wrong({**client, "KEYDESK_URL": "https://no-such-desk.invalid"})
    assert check == "name" and "no-such-desk.invalid" in told


def test_nobody_listens(client):
    check, told = wrong({**client, "KEYDESK_URL": f"http://127.0.0.1:{free_port()}"})
    assert check == "connection" and "does the desk run" in told


def test_a_credential_that_is_not_accepted(desk, client):
    check, told = wrong({**client, "KEYDESK_API_KEY": desk.service_api_key + "x"})
    assert check == "credential" and desk.service_api_key not in told


def test_no_grant_and_another_project(desk, client):
    made = desk.cli_json("service-account", "add", "lonely")
    check, told = wrong({**client, "KEYDESK_API_KEY": made["token"]})
    assert check == "grants" and "keydesk grant add lonely default" in told
    check, told = wrong({**client, "KEYDESK_PROJECT": "search"})
    assert check == "grants" and "search" in told and "default" in told


def test_keys_that_programs_find_without_us(client):
    verdicts, found = examined({**client, "OPENAI_API_KEY": "CANARY-from-elsewhere"})
    assert verdicts["variables"] == "note" and "OPENAI_API_KEY" in found["variables"]["what"]
    assert "CANARY" not in json.dumps(found)


def test_a_proxy_in_the_way(client):
    check, told = wrong({**client, "KEYDESK_URL": "https://desk.example.com", "HTTPS_PROXY": f"http://me:CANARY@127.0.0.1:{free_port()}"})
    assert check == "desk"
    verdicts, found = examined({**client, "KEYDESK_URL": "https://desk.example.com", "https_proxy": "http://me:CANARY@127.0.0.1:9"})
    assert verdicts["proxy"] == "note" and "NO_PROXY" in found["proxy"]["advice"] and "CANARY" not in json.dumps(found)


# Something else that listens.


@contextlib.contextmanager
def listening(answer, tls=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def says(status, body=b"", **headers):
    def answer(request):
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
    return answer


def test_something_else_than_a_desk(client):
    for answer, expected in [
        (says(200, b"<html>welcome</html>"), "answers as no desk does: 200 OK"),
        (says(302, Location="https://login.example.com/"), "302 Found to https://login.example.com/"),
        (says(404), "404 Not Found"),
    ]:
        with listening(answer) as port:
            check, told = wrong({**client, "KEYDESK_URL": f"http://127.0.0.1:{port}"})
            assert check == "desk" and expected in told, told


def test_clocks_that_are_apart_and_a_proxy_that_names_itself(client):
    def answer(request):
        says(200, b'{"status":"healthy"}', Date="Sun, 01 Jan 2023 00:00:00 GMT", Via="1.1 gateway")(request)

    with listening(answer) as port:
        verdicts, found = examined({**client, "KEYDESK_URL": f"http://127.0.0.1:{port}"})
    assert verdicts["clock"] == "wrong" and "NTP" in found["clock"]["advice"]
    assert found["proxy"]["what"] == "the answer came through 1.1 gateway"


def test_a_desk_that_is_not_ready(client):
    def answer(request):
        if request.path == "/health":
            return says(200, b'{"status":"healthy"}')(request)
        says(503, b'{"status":"not_ready","checks":{"store":"ok","audit":"failing"}}')(request)

    with listening(answer) as port:
        _, found = examined({**client, "KEYDESK_URL": f"http://127.0.0.1:{port}"})
    assert found["ready"]["verdict"] == "wrong" and found["ready"]["what"].endswith("now: audit")


def certificate(directory, name, days):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30)).not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


@pytest.mark.parametrize("name, days, known, advice", [
    ("localhost", 10, False, "KEYDESK_CA_FILE"),
    ("localhost", -1, True, "clock of this machine"),
    ("desk.example.com", 10, True, "the name that is in the certificate"),
])
def test_a_certificate_that_proves_nothing(client, tmp_path, name, days, known, advice):
    with listening(says(200, b'{"status":"healthy"}'), certificate(tmp_path, name, days)) as port:
        ca = {"KEYDESK_CA_FILE": str(tmp_path / "cert.pem")} if known else {}
        check, told = wrong({**client, **ca, "KEYDESK_URL": f"https://localhost:{port}"})
    assert check == "certificate" and advice in told, told


def test_http_and_https_taken_for_each_other(desk, client, tmp_path):
    check, told = wrong({**client, "KEYDESK_URL": desk.url.replace("http:", "https:")})
    assert check == "certificate" and "does not speak TLS" in told, told
    with listening(says(200), certificate(tmp_path, "localhost", 10)) as port:
        check, told = wrong({**client, "KEYDESK_URL": f"http://localhost:{port}"})
    assert check == "desk" and "https://" in told, told
