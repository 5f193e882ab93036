"""What an operator sees: metrics as Prometheus reads them, the files under deploy/, one log line per request, traces.

And what nobody may see there, whatever they ask for: secrets.
"""

import http.server
import json
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time

import pytest
import requests
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import engine
from conftest import BINARY, PASSWORD, ROOT, WORK, eventually, free_port

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def promtool(*arguments, **options):
    """Prometheus' own tool: from the path, or from where scripts/test unpacks it."""
    tool = shutil.which("promtool") or shutil.which("promtool", path=str(WORK / "prometheus" / "usr" / "bin"))
    if not tool:
        pytest.skip("promtool is missing")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, **options)


class Sighted:
    """A desk with everything switched on, whose log is apart from its banner."""

    def __init__(self, desk, *flags, **settings):
        self.desk = desk
        self.metrics = f"http://127.0.0.1:{free_port()}/metrics"
        desk.env.update({"KEYDESK_METRICS__LISTEN": self.metrics.split("/")[2], **settings})
        self.log = desk.logs / "sight.log"
        self.out = (desk.logs / "sight.out").open("wb")
        with self.log.open("wb") as log:
            desk.process = subprocess.Popen(
                [BINARY, "serve", "--listen", f"127.0.0.1:{desk.port}", *flags],
                cwd=desk.home, env=desk.env, stdin=subprocess.DEVNULL, stdout=self.out, stderr=log,
            )
        assert eventually(self.is_up, within=60), self.log.read_text()

    def is_up(self):
        try:
            return requests.get(f"{self.desk.url}/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            assert self.desk.process.poll() is None, self.log.read_text()

    def scrape(self):
        answer = requests.get(self.metrics, timeout=30)
        assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
        return answer.text

    def lines(self):
        """The log, each line an object of its own."""
        return [json.loads(line) for line in self.log.read_bytes().decode().split("\n")[:-1]]


@pytest.fixture(scope="module")
def sighted(new_desk):
    running = Sighted(new_desk(), "--log-format", "json")
    use(running.desk)
    yield running
    assert running.desk.stop() == 0


def use(desk):
    """A little of everything."""
    headers = {"Authorization": f"Bearer {desk.login()}"}
    assert desk.get("/llm-keys", headers=headers).status_code == 200
    assert desk.get("/llm-keys/openai", headers=headers).status_code == 200
    assert desk.get("/llm-keys/nobody", headers=headers).status_code == 404
    assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).status_code == 200


# Metrics.


def test_prometheus_own_parser_reads_the_metrics(sighted):
    families = {family.name: family for family in text_string_to_metric_families(sighted.scrape())}
    types = {name: family.type for name, family in families.items()}
    assert types["keydesk_http_requests"] == "counter"
    assert types["keydesk_http_request_duration_seconds"] == "histogram"
    assert types["keydesk_ready"] == "gauge" and types["keydesk_build"] == "info"
    assert types["process_cpu_seconds"] == "counter" and types["process_resident_memory_bytes"] == "gauge"
    assert all(family.documentation for family in families.values())
    handed = {tuple(sample.labels.values()): sample.value for sample in families["keydesk_key_reads"].samples}
    assert handed[("handed",)] >= 3 and handed[("denied",)] >= 1
    started = families["process_start_time_seconds"].samples[0].value
    assert abs(time.time() - started) < 600


def test_promtool_finds_nothing_to_mend(sighted):
    done = promtool("check", "metrics", input=older(sighted.scrape()))
    assert done.returncode == 0, done.stdout + done.stderr


def older(page):
    """The page in the older text format, which is all that `promtool check metrics` reads: counters keep their ending."""
    counters = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE") and line.endswith(" counter")}
    infos = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE") and line.endswith(" info")}
    lines = []
    for line in page.splitlines():
        words = line.split(" ")
        if words[0] == "#":
            if words[1] in ("EOF", "UNIT"):
                continue
            words[2] += "_total" if words[2] in counters else "_info" if words[2] in infos else ""
            words[-1] = "gauge" if words[-1] == "info" else words[-1]
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def test_metrics_are_not_where_clients_are_and_hold_no_secret(sighted):
    assert sighted.desk.get("/metrics").status_code == 404
    page = sighted.scrape()
    for secret in [*sighted.desk.keys.values(), sighted.desk.service_api_key, PASSWORD, "CANARY", "admin\""]:
        assert secret not in page


# What is under deploy/.

RULES = ROOT / "deploy" / "prometheus" / "keydesk.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "keydesk.json"
# These exist only with TLS, or with a key that expires.
SOMETIMES = {"keydesk_certificate_expiry_timestamp_seconds", "keydesk_provider_key_expiry_timestamp_seconds"}


def named(expression):
    return set(re.findall(r"\b(?:keydesk|process)_[a-z_]+", expression))


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_every_metric_of_the_dashboard_and_the_rules_exists(sighted):
    page = sighted.scrape()
    there = {re.split(r"[{ ]", line)[0] for line in page.splitlines() if not line.startswith("#")} | SOMETIMES
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    used = set().union(*map(named, [*queries, *(rule["expr"] for rule in rules())]))
    # Of a database on a server this machine's disk says nothing.
    away = {"keydesk_disk_free_bytes", "keydesk_disk_size_bytes"} if engine.ON_POSTGRES else set()
    assert used - there == away
    # And nothing that is measured is left out of sight.
    measured = {name for name in there if name.startswith("keydesk_") and not name.endswith(("_bucket", "_count", "_sum"))}
    assert measured - used == set()


def test_every_expression_of_the_dashboard_is_one(tmp_path):
    queries = [target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel["targets"]]
    rules = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(queries)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_fits_on_the_page():
    all_panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    taken = set()
    for panel in all_panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels())


def test_the_rules_say_what_to_do():
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in rules():
        assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith((".", "h", "rotate")), rule
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_sample_configuration_finds_the_rules():
    done = promtool("check", "config", str(RULES.with_name("prometheus.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_is_one_that_systemd_reads():
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    unit = ROOT / "deploy" / "systemd" / "keydesk.service"
    text = unit.read_text()
    done = subprocess.run(["systemd-analyze", "--man=no", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "keydesk.service" in line and "is not executable" not in line]
    assert complaints == []
    assert "LimitCORE=0" in text and "NoNewPrivileges=yes" in text
    command = re.search(r"^ExecStart=\S+ (.*)$", text, re.M)[1].split()
    known = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert command[0] == "serve" and all(flag in known for flag in command if flag.startswith("--"))


# The log.

HOSTILE = ['"},{"level":"FORGED', "\u2028\u2029\u0085", "\x1b[2J\x1b]0;x\x07", "%0d%0aFORGED", "\\u0000\\", "🦀" * 50, "{}[]",
           "CANARY" * 200]


def test_every_line_is_an_object_and_every_request_has_one(new_desk):
    running = Sighted(new_desk(), "--log-format", "json", RUST_LOG="trace,hyper=trace,h2=trace,[{route}]=trace")
    desk = running.desk
    use(desk)
    answers = {}

    def noted(answer, **expected):
        answers[answer.headers["x-request-id"]] = {"status": answer.status_code, **expected}

    token = desk.login()
    noted(desk.get("/llm-keys", headers={"Authorization": f"Bearer {token}"}), principal="admin", route="/llm-keys", method="GET")
    noted(desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}), principal="default", route="/llm-keys")
    noted(desk.token_response(data={"grant_type": "password", "username": "admin", "password": PASSWORD}),
          principal="admin", route="/token", method="POST")
    for text in HOSTILE:
        secret = f"kd_ak_CANARY{secrets.token_hex(18)}"
        quoted = requests.utils.quote(text)
        noted(desk.get(f"/{quoted}?key={quoted}"), route="none")
        noted(desk.get(f"/llm-keys/{quoted}?project={quoted}", headers={"X-API-Key": secret}), route="/llm-keys/{provider}")
        noted(desk.token_response(data={"grant_type": "password", "username": text, "password": text}), route="/token")
        noted(desk.token_response(data={"grant_type": text, "client_id": text, "client_secret": secret}), route="/token")
        header = text.encode()
        if not any(byte < 32 or byte == 127 for byte in header):
            names = ["User-Agent", "Referer", "X-Request-Id", "X-Forwarded-For", "traceparent", "Authorization"]
            noted(desk.get("/llm-keys", headers={name: header for name in names}), route="/llm-keys")
    noted(requests.request("BREW", f"{desk.url}/health", timeout=30), method="other", route="/health")
    assert desk.stop() == 0

    lines = running.lines()
    requests_seen = [line for line in lines if line.get("message") == "request"]
    for request_id, expected in answers.items():
        seen = [line for line in requests_seen if line["request_id"] == request_id]
        assert len(seen) == 1, request_id
        assert {name: seen[0].get(name) for name in expected} == expected
        assert seen[0]["level"] == "INFO" and seen[0]["client"] == "127.0.0.1" and seen[0]["micros"] >= 0
        assert ("principal" in seen[0]) == ("principal" in expected)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        assert line["level"] in ("ERROR", "WARN", "INFO", "DEBUG", "TRACE") and line["target"]
    text = running.log.read_text()
    for secret in [*desk.keys.values(), desk.service_api_key, token, PASSWORD, "CANARY", "FORGED", "\x1b", "\u2028"]:
        assert secret not in text
    # Nobody can make the libraries that see requests talk.
    assert {line["target"].split("::")[0] for line in lines if line["level"] in ("DEBUG", "TRACE")} <= {"keydesk", "sqlx"}


def test_a_client_that_leaves_has_its_line_too(sighted):
    before = len([line for line in sighted.lines() if line.get("status") == 499])
    with socket.create_connection(("127.0.0.1", sighted.desk.port)) as client:
        body = f"grant_type=password&username=admin&password={secrets.token_hex(10)}".encode()
        client.sendall(b"POST /token HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (sighted.desk.port, len(body), body))
        time.sleep(0.01)
    gone = lambda: [line for line in sighted.lines() if line.get("status") == 499][before:]
    assert eventually(gone, within=20), "neither answered nor told"
    assert gone()[0]["route"] == "/token"


def test_the_text_form_has_the_same(new_desk):
    running = Sighted(new_desk(), RUST_LOG="info")
    use(running.desk)
    assert running.desk.stop() == 0
    lines = [line for line in running.log.read_text().splitlines() if " request " in line]
    assert any(re.search(r'principal="admin" method="GET" route="/llm-keys" status=200 micros=\d+', line) for line in lines), lines


# Traces.


class Collector:
    """An OpenTelemetry collector that keeps what it gets."""

    def __init__(self, port=0):
        self.spans, self.resources, self.paths, self.status = [], [], set(), 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.add((self.path, self.headers["content-type"]))
                if collector.status == 200:
                    message = ExportTraceServiceRequest.FromString(body)
                    for resource in message.resource_spans:
                        collector.resources.append(attributes(resource.resource))
                        for scope in resource.scope_spans:
                            collector.spans.extend(scope.spans)
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, trace_id):
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def attributes(thing):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in thing.attributes}


def traced():
    """The header of a client that traces, with its ids."""
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    return {"traceparent": f"00-{trace}-{parent}-01", "tracestate": "vendor=CANARYSTATE"}, trace, parent


def test_a_request_is_a_span_and_its_waits_are_spans_in_it(new_desk):
    collector = Collector()
    running = Sighted(new_desk(), KEYDESK_TRACES__ENDPOINT=collector.url, RUST_LOG="info")
    desk = running.desk
    header, trace, parent = traced()
    form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
    token = desk.token_response(data=form, headers=header).json()["access_token"]
    key_header, key_trace, _ = traced()
    answer = desk.get("/llm-keys?project=default", headers={"Authorization": f"Bearer {token}", **key_header})
    assert answer.status_code == 200
    none_header, none_trace, _ = traced()
    assert desk.get("/CANARYPATH", headers=none_header).status_code == 404
    alone = desk.get("/health")
    for bad in ["", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "CANARYPARENT", "00-zz"]:
        assert desk.get("/health", headers={"traceparent": bad}).status_code == 200
    # A client that does not record its trace is not recorded.
    unwanted = secrets.token_hex(16)
    desk.get("/health", headers={"traceparent": f"00-{unwanted}-{secrets.token_hex(8)}-00"})
    assert desk.stop() == 0
    # Everything is there when it has stopped.
    assert collector.paths == {("/v1/traces", "application/x-protobuf")}
    assert all(resource["service.name"] == "keydesk" and resource["service.version"] for resource in collector.resources)

    spans = collector.of(trace)
    (request,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert (request.name, request.parent_span_id.hex()) == ("POST /token", parent)
    said = attributes(request)
    assert said["http.request.method"] == "POST" and said["http.route"] == "/token"
    assert said["http.response.status_code"] == 200 and said["user.name"] == "admin" and said["client.address"] == "127.0.0.1"
    names = {span.name for span in spans}
    # On PostgreSQL the wait for `commit` is not one of a statement.
    assert {"password.verify", "audit.commit", "select", "insert", "begin" if engine.ON_POSTGRES else "commit"} <= names
    ids = {span.span_id for span in spans}
    assert all(span.parent_span_id in ids for span in spans if span is not request)
    for span in spans:
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        # A task that was told the result may end its span a moment later.
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 100_000_000
    statements = [attributes(span) for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    system = "postgresql" if engine.ON_POSTGRES else "sqlite"
    assert all(statement["db.system.name"] == system and statement["db.query.text"] for statement in statements)

    (read,) = [span for span in collector.of(key_trace) if span.kind == Span.SPAN_KIND_SERVER]
    assert attributes(read)["http.route"] == "/llm-keys"
    assert attributes(read)["request.id"] == answer.headers["x-request-id"]
    (stray,) = collector.of(none_trace)
    assert stray.name == "GET" and "http.route" not in attributes(stray)
    assert stray.status.code == Status.STATUS_CODE_UNSET
    roots = [span for span in collector.spans if not span.parent_span_id]
    assert alone.headers["x-request-id"] in {attributes(span).get("request.id") for span in roots}
    assert all(span.kind == Span.SPAN_KIND_SERVER for span in roots), "what the desk does by itself is no trace"
    assert collector.of(unwanted) == []
    everything = "".join(map(str, collector.spans))
    for secret in [*desk.keys.values(), desk.service_api_key, token, PASSWORD, "CANARY", "project=default"]:
        assert secret not in everything
    collector.close()


def test_a_collector_that_is_away_is_told_once_and_costs_nothing(new_desk):
    port = free_port()
    running = Sighted(new_desk(), "--log-format", "json", KEYDESK_TRACES__ENDPOINT=f"http://127.0.0.1:{port}", RUST_LOG="info")
    desk = running.desk
    away = lambda: [line for line in running.lines() if "collector" in line.get("message", "")]
    assert eventually(lambda: desk.get("/health") and away(), within=30)
    for _ in range(200):
        assert desk.get("/health").status_code == 200
    time.sleep(3)
    assert [line["level"] for line in away()] == ["WARN"], "one warning, not a flood"
    collector = Collector(port)
    assert eventually(lambda: desk.get("/health") and len(away()) > 1, within=30)
    assert away()[1]["level"] == "INFO" and collector.spans
    collector.status = 503
    begun = time.monotonic()
    assert desk.stop() == 0
    assert time.monotonic() - begun < 8, "a collector in trouble does not keep the server from stopping"
    collector.close()
