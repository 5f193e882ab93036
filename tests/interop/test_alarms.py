"""Alarms, from what sets them off to a receiver that is not ours: signatures, bad receivers, restarts, full disks."""

import base64
import datetime
import fcntl
import ipaddress
import json
import os
import secrets
import statistics
import subprocess
import time

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook, WebhookVerificationError

import engine
from conftest import PASSWORD, Desk, eventually
from receiver import Receiver, status
from sources import Client, login


def new_secret():
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def webhook(receiver, **more):
    """Settings that send alarms there."""
    return {
        "KEYDESK_ALERTS__WEBHOOK_URL": receiver.url,
        "KEYDESK_ALERTS__ALLOW_TO": "127.0.0.0/8",
        **more,
    }


@pytest.fixture
def fresh(tmp_path):
    made = []

    def make(**settings):
        desk = Desk(tmp_path / f"desk{len(made)}", **settings)
        # The command line has the same environment as the server, as it would under a service manager.
        desk.plain_env.update({name: value for name, value in settings.items() if name.startswith("KEYDESK_ALERTS")})
        made.append(desk)
        return desk

    yield make
    for desk in made:
        desk.kill()


@pytest.fixture(scope="module")
def alarmed(new_desk):
    """A running desk with a receiver that takes everything, and the secret they share."""
    secret = new_secret()
    with Receiver() as receiver:
        desk = new_desk(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=secret))
        desk.plain_env["KEYDESK_ALERTS__WEBHOOK_URL"] = receiver.url
        desk.start()
        yield desk, receiver, secret
        desk.stop()


def wait_for(receiver, rule, count=1, within=10):
    eventually(lambda: len(receiver.of(rule)) >= count, within)
    return receiver.of(rule)


def read(desk, **options):
    return requests.get(f"{desk.url}/llm-keys", headers={"X-API-Key": desk.service_api_key}, timeout=30, **options)


def test_a_published_library_verifies_the_signature_and_nothing_else_passes(alarmed):
    desk, receiver, secret = alarmed
    said = desk.cli("alert", "test")
    assert "the receiver answered 204 No Content" in said
    message = wait_for(receiver, "test")[-1]
    alarm = Webhook(secret).verify(message.body, message.headers)
    assert alarm["type"] == "alarm.raised" and alarm["data"]["severity"] == "info"
    assert message.headers["content-type"] == "application/json"
    assert message.id.startswith("msg_")
    for body, headers, key in [
        (message.body + b" ", message.headers, secret),
        (message.body, {**message.headers, "webhook-id": "msg_other"}, secret),
        (message.body, {**message.headers, "webhook-timestamp": str(int(message.headers["webhook-timestamp"]) + 1)}, secret),
        (message.body, message.headers, new_secret()),
    ]:
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, headers)


def test_spraying_is_one_message_within_seconds_however_long_it_goes_on(alarmed):
    desk, receiver, _ = alarmed
    for i in range(40):
        login(desk, f"somebody{i}", "not the password at all", source="127.66.0.1")
    time.sleep(2.5)
    sprayed = [m for m in wait_for(receiver, "password_spraying") if m.json()["data"]["subject"] == "source:127.66.0.1"]
    assert len(sprayed) == 1
    assert "127.66.0.1" in sprayed[0].json()["data"]["summary"]
    listed = desk.cli_json("alert", "list")
    assert any(alarm["rule"] == "password_spraying" and alarm["state"] == "delivered" for alarm in listed)
    assert "password_spraying" in desk.cli("alert", "list")
    event = desk.cli_json("audit", "list", "--action", "alarm.raise")[0]
    assert event["actor"] == "keydesk" and event["object"].startswith("alarm:")


def test_hammering_one_user_is_told_of_although_the_attempts_are_not_looked_at(fresh):
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
        statuses = []
        with Client(desk, "127.69.0.1") as client:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                statuses.append(client.login("admin", "not the password at all").status)
        assert statuses.count(429) > statuses.count(400)
        assert len(wait_for(receiver, "password_guessing")) == 1
        time.sleep(2)
        assert len(receiver.of("password_guessing")) == 1


def test_one_user_from_many_sources(alarmed):
    desk, receiver, _ = alarmed
    for i in range(12):
        login(desk, "admin", "not the password at all", source=f"127.67.0.{i + 1}")
    assert eventually(lambda: "user:admin" in [m.json()["data"]["subject"] for m in receiver.of("password_spraying")], 10)


def test_a_refresh_token_that_comes_back(alarmed):
    desk, receiver, _ = alarmed
    desk.cli("user", "add", "reuse", "--password-stdin", stdin=PASSWORD)
    form = {"grant_type": "password", "username": "reuse", "password": PASSWORD}
    spent = desk.token_response(data=form).json()["refresh_token"]
    for _ in range(2):
        token = desk.token_response(data={"grant_type": "refresh_token", "refresh_token": spent}).json()["refresh_token"]
    desk.token_response(data={"grant_type": "refresh_token", "refresh_token": token})
    assert desk.token_response(data={"grant_type": "refresh_token", "refresh_token": spent}).status_code == 400
    (message,) = wait_for(receiver, "refresh_token_reuse")
    data = message.json()["data"]
    assert data["severity"] == "critical" and data["subject"] == "user:reuse"
    request = [e for e in desk.cli_json("audit", "list", "--limit", "200") if e["request_id"] == data["request_id"]]
    assert {"refresh_token.reuse", "alarm.raise"} <= {event["action"] for event in request}


def test_a_principal_from_a_new_network(alarmed):
    desk, receiver, _ = alarmed
    account = desk.cli_json("service-account", "add", "roamer", "--project", "default")
    for source in ("127.0.0.1", "127.0.0.9", "127.44.5.1", "127.44.5.2", "127.0.0.1"):
        with Client(desk, source) as client:
            assert client.request("GET", "/llm-keys", **{"X-API-Key": account["token"]}).status == 200

    def of_roamer():
        return [m.json()["data"]["subject"] for m in receiver.of("new_network") if "roamer" in m.body.decode()]

    assert eventually(of_roamer, 10) == ["service_account:roamer from 127.44.5.0/24"]
    time.sleep(2)
    assert len(of_roamer()) == 1


def test_far_more_key_reads_than_ever(alarmed):
    desk, receiver, _ = alarmed
    account = desk.cli_json("service-account", "add", "greedy", "--project", "default")
    session = requests.Session()
    for _ in range(130):
        assert session.get(f"{desk.url}/llm-keys", headers={"X-API-Key": account["token"]}, timeout=30).status_code == 200
    messages = [m for m in wait_for(receiver, "unusual_key_reads") if "greedy" in m.json()["data"]["subject"]]
    assert len(messages) == 1


def test_administration_that_was_denied(alarmed):
    desk, receiver, _ = alarmed
    token = desk.login()
    assert desk.get("/admin/users", headers={"Authorization": f"Bearer {token}"}).status_code == 403
    data = wait_for(receiver, "denied_administration")[0].json()["data"]
    assert (data["subject"], data["desk"]) == ("user:admin", desk.url)


def test_a_seal_that_was_broken(fresh):
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
        with desk.connect() as database:
            database.execute("update provider_key_versions set sealed = ?", [bytes(90)])
        assert read(desk).status_code == 500
        assert wait_for(receiver, "broken_seal")[0].json()["data"]["severity"] == "critical"


@pytest.mark.parametrize("bad", ["down", "slow", "500", "redirect", "huge", "garbage"])
def test_a_bad_receiver_costs_nobody_anything(fresh, bad):
    """Whatever the receiver does: keys are handed out as fast, attempts are few, and what cannot be sent waits."""
    with Receiver() as elsewhere:
        def huge(handler):
            handler.send_response(500)
            handler.end_headers()
            for _ in range(10_000):
                handler.wfile.write(b"x" * 65536)

        answers = {
            "slow": lambda handler: time.sleep(60),
            "500": status(500, b"out of\r\norder"),
            "redirect": status(307, location=elsewhere.url),
            "huge": huge,
            "garbage": lambda handler: handler.wfile.write(b"\0\1\2 this is not HTTP\r\n\r\n"),
        }
        with Receiver(answers.get(bad)) as receiver:
            if bad == "down":
                receiver.close()
            desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
            token = desk.login()
            assert desk.get("/admin/users", headers={"Authorization": f"Bearer {token}"}).status_code == 403
            times = []
            for _ in range(60):
                begun = time.perf_counter()
                assert read(desk).status_code == 200
                times.append(time.perf_counter() - begun)
                time.sleep(0.05)
            assert statistics.median(times) < 0.25
            if bad == "slow":
                assert eventually(lambda: desk.cli_json("alert", "list")[0]["last_error"], 12)
            alarm = next(a for a in desk.cli_json("alert", "list") if a["rule"] == "denied_administration")
            assert (alarm["state"], alarm["attempts"]) == ("waiting", 1), alarm
            assert len(receiver.of("denied_administration")) == (0 if bad == "down" else 1)
            assert elsewhere.messages == [], "redirects are not followed"
            expected = {
                "down": "refused", "slow": "did not answer in time", "500": "the receiver answered 500 Internal Server Error",
                "redirect": "redirects are not followed", "huge": "500", "garbage": "",
            }
            assert expected[bad] in alarm["last_error"]
            if bad == "down":
                said = desk.run("alert", "test")
                assert said.returncode == 1 and "not delivered" in said.stderr and "refused" in said.stderr
            assert desk.stop() == 0


def test_what_could_not_be_sent_is_sent_after_a_restart_once_and_under_the_same_name(fresh):
    with Receiver(status(503)) as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
        assert desk.run("alert", "test").returncode == 1
        assert desk.run("alert", "test").returncode == 1
        desk.kill()
        tried = {message.id for message in receiver.of("test")}
        assert len(tried) == 2
        receiver.answer = None
        # The waits are long for a test; nothing else is changed.
        with desk.connect() as database:
            database.execute("update outbox set next_attempt_at = 0 where state = 'waiting'")
        receiver.messages.clear()
        desk.start()
        assert eventually(lambda: len(receiver.of("test")) >= 2, 5)
        time.sleep(2.5)
        assert sorted(message.id for message in receiver.of("test")) == sorted(tried), "each once"
        assert {alarm["state"] for alarm in desk.cli_json("alert", "list")} == {"delivered"}


def test_the_message_survives_kill_9_before_its_first_attempt(fresh):
    """The alarm and its message are one transaction: if the book has the one, the outbox has the other."""
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
        token = desk.login()
        for _ in range(3):
            desk.get("/admin/users", headers={"Authorization": f"Bearer {token}"})
        desk.kill()
        desk.start()
        messages = wait_for(receiver, "denied_administration")
        assert len({message.id for message in messages}) == 1
        assert len(desk.cli_json("audit", "list", "--action", "alarm.raise")) == 1


def test_slack_s_form_needs_no_secret(fresh):
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__FORMAT="slack")).start()
        desk.cli("alert", "test")
        (message,) = receiver.messages
        assert list(message.json()) == ["text"] and message.json()["text"].startswith("*[info] test*: ")
        assert "webhook-signature" not in message.headers


def test_without_a_webhook_it_says_how_to_configure_one(fresh):
    desk = fresh().start()
    said = desk.run("alert", "test")
    assert said.returncode == 1
    assert "alerts.webhook_url" in said.stderr and "KEYDESK_ALERTS__WEBHOOK_SECRET" in said.stderr
    token = desk.login()
    desk.get("/admin/users", headers={"Authorization": f"Bearer {token}"})
    assert eventually(lambda: desk.cli_json("alert", "list"), 5)[0]["state"] == "kept"


def test_the_command_line_sends_by_itself_when_nothing_serves(fresh):
    secret = new_secret()
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=secret)).start()
        desk.stop()
        assert "204" in desk.cli("alert", "test")
        Webhook(secret).verify(receiver.messages[-1].body, receiver.messages[-1].headers)


@pytest.mark.parametrize(("url", "more", "why"), [
    ("http://127.0.0.1:9/", {}, "not a public address"),
    ("https://169.254.169.254/latest/meta-data", {}, "not a public address"),
    ("https://[::ffff:10.0.0.1]/", {}, "not a public address"),
    ("https://2130706433/", {}, "not a public address"),
    ("http://1.1.1.1/", {}, "use https://"),
    ("https://hooks.example.com/", {"KEYDESK_ALERTS__WEBHOOK_SECRET": ""}, "it needs a secret"),
    ("file:///etc/passwd", {}, "does not begin with https://"),
])
def test_a_webhook_that_must_not_be_is_refused_at_the_start(fresh, url, more, why):
    settings = {"KEYDESK_ALERTS__WEBHOOK_SECRET": new_secret(), "KEYDESK_ALERTS__WEBHOOK_URL": url, **more}
    desk = fresh(**settings)
    with pytest.raises(AssertionError, match=why):
        desk.start()
    assert not desk.data.exists() or not list(desk.data.glob("keydesk.db"))


def test_a_name_inside_is_refused_when_it_is_looked_up(fresh):
    """`localhost` is a name, so that only its address tells."""
    with Receiver() as receiver:
        settings = webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret(), KEYDESK_ALERTS__ALLOW_TO="10.0.0.0/8")
        settings["KEYDESK_ALERTS__WEBHOOK_URL"] = f"https://localhost:{receiver.port}/"
        desk = fresh(**settings).start()
        said = desk.run("alert", "test")
        assert said.returncode == 1 and "is not a public address" in said.stderr
        assert receiver.messages == []


def test_the_certificate_is_checked(fresh, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with Receiver(certificate=(chain, private)) as receiver:
        settings = webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())
        desk = fresh(**settings).start()
        said = desk.run("alert", "test")
        assert said.returncode == 1 and "certificate" in said.stderr, said.stderr
        assert receiver.messages == []
        trusting = fresh(**settings)
        trusting.env["SSL_CERT_FILE"] = trusting.plain_env["SSL_CERT_FILE"] = str(chain)
        trusting.start()
        assert "204" in trusting.cli("alert", "test")


@pytest.mark.sqlite("the disk is the server's")
def test_a_full_disk_is_told_of_although_nothing_can_be_written(fresh):
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret()))
        desk.data.mkdir(mode=0o700)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", desk.data], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
        try:
            desk.start()
            filler = desk.data / "filler"
            with filler.open("wb") as file:
                try:
                    while True:
                        file.write(b"\0" * 65536)
                        file.flush()
                except OSError:
                    pass
            assert eventually(lambda: [read(desk).status_code for _ in range(50)][-1] == 503, 20)
            failure = wait_for(receiver, "book_failure", within=10)
            assert len(failure) == 1 and failure[0].json()["data"]["severity"] == "critical"
            assert len(wait_for(receiver, "disk_space", within=15)) == 1
            time.sleep(3)
            assert len(receiver.of("book_failure")) == 1
            filler.unlink()
            assert wait_for(receiver, "book_recovery", within=10)
            rules = eventually(
                lambda: {a["rule"]: a["state"] for a in desk.cli_json("alert", "list")}, 10)
            assert rules["book_failure"] == rules["disk_space"] == rules["book_recovery"] == "delivered"
            objects = [event["object"] for event in desk.cli_json("audit", "list", "--action", "alarm.raise")]
            assert objects.count("alarm:book_failure") == 1, "written down when it worked again"
            time.sleep(2)
            assert len({message.id for message in receiver.messages}) == len(receiver.messages), "nothing came twice"
            assert desk.stop() == 0
        finally:
            desk.kill()
            subprocess.run(["umount", desk.data], check=True)


def test_checkpoints_arrive_elsewhere_and_suffice_to_show_a_book_that_was_cut(fresh):
    """What the receiver has is all there is: somebody with the data directory removes the checkpoints in it first."""
    secret = new_secret()

    def database(desk, *statements):
        with desk.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    with Receiver(status(503)) as receiver:
        desk = fresh(
            KEYDESK_AUDIT__CHECKPOINT_WEBHOOK_URL=receiver.url, KEYDESK_ALERTS__ALLOW_TO="127.0.0.1",
            KEYDESK_ALERTS__WEBHOOK_SECRET=secret,
        ).start()
        # Each of these is a stream of its own, which only the next checkpoint names.
        for name in ("one", "two"):
            assert eventually(lambda: receiver.messages, 10)
            desk.cli("project", "add", name)
            desk.stop()
            desk.start()
        tried = {message.id for message in receiver.messages}
        desk.stop()
        receiver.messages.clear()
        receiver.answer = None
        database(desk, "update outbox set next_attempt_at = 0 where state = 'waiting'")
        desk.start()
        assert eventually(lambda: tried <= {message.id for message in receiver.messages}, 10), "none is dropped"
        desk.stop()
        desk.start()
        time.sleep(2)
        desk.kill()
        messages = [Webhook(secret).verify(message.body, message.headers) for message in receiver.messages]
        assert {message["type"] for message in messages} == {"audit.checkpoint"}
        assert sorted(message["data"]["seq"] for message in messages) == list(range(1, len(messages) + 1))
        elsewhere = desk.home / "elsewhere"
        elsewhere.write_text("".join(message["data"]["jws"] + "\n" for message in messages))
        key = jwt.PyJWK(json.loads(desk.cli("audit", "public-key")))
        for message in messages:
            claims = jwt.decode(message["data"]["jws"], key, algorithms=["EdDSA"], options={"verify_iat": False})
            assert claims["seq"] == message["data"]["seq"]

        def verify():
            (desk.data / "audit.checkpoints").unlink(missing_ok=True)
            database(desk, "delete from audit_checkpoints")
            return desk.run("audit", "verify", "--checkpoints", str(elsewhere))

        verified = verify()
        assert verified.returncode == 0, verified.stdout + verified.stderr
        # What is left is whole in itself: nothing in it names what came later.
        with desk.connect() as connection:
            connection.execute(engine.drop_rule("audit_events_are_not_deleted"))
            (first,) = connection.execute("select stream from audit_events order by at, seq limit 1").fetchone()
            for table in ("audit_events", "audit_streams"):
                connection.execute(f"delete from {table} where stream <> ?", [first])
        verified = verify()
        assert verified.returncode != 0 and "missing" in verified.stdout + verified.stderr, verified.stdout


def test_a_checkpoint_file_that_hangs_is_told_of_and_delays_no_revocation(fresh):
    """As on a network file system whose server has gone: the call does not fail, it does not return."""
    with Receiver() as receiver:
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=new_secret())).start()
        assert eventually(lambda: (desk.data / "audit.checkpoints").exists(), 10)
        desk.stop()
        with (desk.data / "audit.checkpoints").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A checkpoint is due at once.
            with desk.connect() as database:
                database.execute("update audit_checkpoints set at = 0")
            desk.start()
            ready = lambda: requests.get(f"{desk.url}/health/ready", timeout=30).json()["checks"]["checkpoints"]
            assert eventually(lambda: ready() == "failing", 20)
            assert wait_for(receiver, "checkpoint_failure")
            kids = lambda: {key["kid"] for key in requests.get(f"{desk.url}/.well-known/jwks.json", timeout=30).json()["keys"]}
            before = kids()
            desk.cli("signing-key", "rotate", "--emergency")
            assert eventually(lambda: not before & kids(), 2), "what another process has revoked is noticed"
        assert eventually(lambda: ready() == "ok", 10), "and is written when the disk answers again"
        assert desk.stop() == 0


def test_no_secret_is_in_a_message_or_a_log(fresh):
    secret, path = new_secret(), secrets.token_hex(20)
    def echo(handler):
        """As servers do that tell what they do not have."""
        status(404, f"Route POST:{handler.path} not found".encode(), location=handler.path)(handler)

    with Receiver(echo) as receiver:
        url = f"{receiver.url}/{path}"
        desk = fresh(**webhook(receiver, KEYDESK_ALERTS__WEBHOOK_SECRET=secret, KEYDESK_ALERTS__WEBHOOK_URL=url)).start()
        password = f"SECRET{secrets.token_hex(12)}"
        for i in range(12):
            login(desk, f"victim{i}", password, source="127.68.0.1")
        token = desk.login()
        desk.get("/admin/users", headers={"Authorization": f"Bearer {token}"})
        desk.run("alert", "test")
        read(desk)
        assert wait_for(receiver, "password_spraying") and wait_for(receiver, "denied_administration")
        checked = desk.cli("config", "check") + desk.cli("alert", "list", "--json") + desk.cli("audit", "list", "--json")
        desk.stop()
        sent = b"".join(message.body for message in receiver.messages).decode()
        known = {**desk.keys, "service key": desk.service_api_key, "password": PASSWORD, "guess": password, "token": token,
                 "webhook secret": secret.removeprefix("whsec_")}
        logs = "".join(log.read_text(errors="replace") for log in desk.logs.iterdir())
        stored = b"".join(f.read_bytes() for f in desk.stored()).decode(errors="replace")
        for name, value in known.items():
            assert value not in sent, f"{name} was sent"
            assert value not in logs + checked + stored, f"{name} was written"
        # Who knows the URL of a Slack webhook may post to it.
        assert path not in logs + checked + stored
        assert "hook" not in json.dumps([m.headers.get("referer") for m in receiver.messages])
        assert os.path.exists(desk.data)
