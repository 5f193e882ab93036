"""Every malformed request gets a 4xx in its own error format, quickly, and does not hear its own words again."""

import base64
import json
import pathlib
import secrets
import urllib.parse

import pytest

from conftest import PASSWORD
from rawhttp import send

# Sent where secrets are sent; looked for in every answer and, at the end, in the log.
SECRET = f"CANARYsecret{secrets.token_hex(12)}"
# Sent where no secret belongs (a path, a parameter's name); looked for in every answer.
WORD = f"CANARYword{secrets.token_hex(6)}"

FORM = ("Content-Type", "application/x-www-form-urlencoded")
QUICK = 5  # seconds, for a debug build on a busy machine; what is really slow here takes minutes or for ever
MEGABYTE = 1 << 20


def form(**fields):
    return urllib.parse.urlencode(fields).encode()


def check(answer, statuses=range(400, 500)):
    """What holds for every refusal."""
    assert answer.status in statuses, (answer.status, answer.body[:300])
    assert answer.seconds < QUICK
    assert answer.headers.get("x-request-id"), answer.headers
    assert SECRET.encode() not in answer.everything()
    assert WORD.encode() not in answer.everything()
    assert PASSWORD.encode() not in answer.everything()


def check_oauth_error(answer, error=None, statuses=range(400, 500)):
    """RFC 6749 §5.2."""
    check(answer, statuses)
    assert answer.media_type == "application/json", (answer.media_type, answer.body[:300])
    assert "no-store" in answer.headers.get("cache-control", "")
    body = json.loads(answer.body)
    assert isinstance(body["error"], str) and set(body) <= {"error", "error_description", "error_uri"}
    described = body.get("error_description", "")
    assert all(c in " !" or "#" <= c <= "[" or "]" <= c <= "~" for c in described), described
    if error:
        assert body["error"] == error, body


def check_problem(answer, statuses=range(400, 500)):
    """RFC 9457."""
    check(answer, statuses)
    assert answer.media_type == "application/problem+json", (answer.media_type, answer.body[:300])
    body = json.loads(answer.body)
    assert {"type", "title", "status", "detail", "request_id"} <= set(body), body
    assert body["status"] == answer.status
    assert body["request_id"] == answer.headers["x-request-id"]


# POST /token

LOGIN = {"grant_type": "password", "username": "admin", "password": SECRET}
MULTIPART = (
    "--b\r\nContent-Disposition: form-data; name=\"grant_type\"\r\n\r\npassword\r\n"
    f"--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n{SECRET}\r\n--b--\r\n"
).encode()

TOKEN_CASES = {
    # name: (headers, body, expected error)
    "JSON": ([("Content-Type", "application/json")], json.dumps(LOGIN).encode(), "invalid_request"),
    "multipart": ([("Content-Type", "multipart/form-data; boundary=b")], MULTIPART, "invalid_request"),
    "text": ([("Content-Type", "text/plain")], form(**LOGIN), "invalid_request"),
    "no content type": ([], form(**LOGIN), "invalid_request"),
    "malformed content type": ([("Content-Type", f"{WORD}/;;=")], form(**LOGIN), "invalid_request"),
    "UTF-16": ([("Content-Type", FORM[1] + "; charset=utf-16")], form(**LOGIN).decode().encode("utf-16"), None),
    "compressed": ([FORM, ("Content-Encoding", "gzip")], b"\x1f\x8b\x08\x00" + b"\x00" * 20, "invalid_request"),
    "empty body": ([FORM], b"", "invalid_request"),
    "only separators": ([FORM], b"&&=&=&;&", "invalid_request"),
    "empty parameters": ([FORM], b"grant_type=&username=&password=", "invalid_request"),
    "no grant": ([FORM], form(username="admin", password=SECRET), "invalid_request"),
    "no password": ([FORM], form(grant_type="password", username="admin"), "invalid_request"),
    "empty password": ([FORM], form(grant_type="password", username="admin", password=""), "invalid_request"),
    "unknown grant": ([FORM], form(grant_type=WORD, username="admin", password=SECRET), "unsupported_grant_type"),
    "implicit": ([FORM], form(grant_type="implicit"), "unsupported_grant_type"),
    "grant in capitals": ([FORM], form(**LOGIN | {"grant_type": "PASSWORD"}), "unsupported_grant_type"),
    "repeated user": ([FORM], form(**LOGIN) + b"&username=admin", "invalid_request"),
    "repeated password": ([FORM], form(**LOGIN) + b"&password=x", "invalid_request"),
    "repeated grant": ([FORM], form(**LOGIN) + b"&grant_type=password", "invalid_request"),
    "repeated scope": ([FORM], form(**LOGIN) + b"&scope=llm-keys%3Aread&scope=admin", "invalid_request"),
    "array syntax": ([FORM], b"grant_type=password&username[]=admin&password[]=x", "invalid_request"),
    "unknown scope": ([FORM], form(**LOGIN | {"password": PASSWORD}, scope=WORD), "invalid_scope"),
    "any scope": ([FORM], form(**LOGIN | {"password": PASSWORD}, scope="*"), "invalid_scope"),
    "scope in capitals": ([FORM], form(**LOGIN | {"password": PASSWORD}, scope="LLM-KEYS:READ"), "invalid_scope"),
    "ten thousand scopes": ([FORM], form(**LOGIN, scope="a " * 10_000), None),
    "1 MB password": ([FORM], form(**LOGIN | {"password": SECRET + "a" * MEGABYTE}), None),
    "1 MB user": ([FORM], form(**LOGIN | {"username": WORD + "a" * MEGABYTE}), None),
    "1025 byte password": ([FORM], form(**LOGIN | {"password": SECRET + "a" * 1025}), None),
    "1025 byte user": ([FORM], form(**LOGIN | {"username": WORD + "a" * 1025}), None),
    "a million parameters": ([FORM], b"a=1&" * 1_000_000, None),
    "control characters in the user": ([FORM], form(**LOGIN | {"username": f"ad\x01min\x1b[31m\r\n{WORD}"}), None),
    "NUL in the user": ([FORM], form(**LOGIN | {"username": "admin\0"}), None),
    "NUL in the password": ([FORM], form(**LOGIN | {"password": f"{PASSWORD}\0{SECRET}"}), None),
    "raw NUL": ([FORM], form(**LOGIN) + b"\0\0", None),
    "invalid percent": ([FORM], form(**LOGIN) + b"%zz%", None),
    "invalid UTF-8, escaped": ([FORM], b"grant_type=password&username=%ff%fe&password=" + SECRET.encode(), None),
    "invalid UTF-8, raw": ([FORM], b"grant_type=password&username=\xff\xfe&password=" + SECRET.encode(), None),
    "overlong UTF-8": ([FORM], b"grant_type=password&username=%c0%61dmin&password=" + SECRET.encode(), None),
    "SQL in the user": ([FORM], form(**LOGIN | {"username": "' OR '1'='1' --"}), "invalid_grant"),
    "SQL in the password": ([FORM], form(**LOGIN | {"password": "'; DROP TABLE principals; --"}), "invalid_grant"),
    "wrong password": ([FORM], form(**LOGIN), "invalid_grant"),
    "unknown user": ([FORM], form(**LOGIN | {"username": WORD.lower()}), "invalid_grant"),
    "unknown client": ([FORM], form(**LOGIN, client_id=WORD), "invalid_client"),
    "unknown client with a secret": ([FORM], form(**LOGIN, client_id=WORD, client_secret=SECRET), "invalid_client"),
    "a secret without a client": ([FORM], form(**LOGIN, client_secret=SECRET), None),
    "junk Basic": ([FORM, ("Authorization", f"Basic {SECRET}!!")], form(grant_type="client_credentials"), "invalid_client"),
    "Basic without a colon": ([FORM, ("Authorization", "Basic " + base64.b64encode(SECRET.encode()).decode())], form(grant_type="client_credentials"), "invalid_client"),
    "Basic with binary": ([FORM, ("Authorization", "Basic " + base64.b64encode(b"\xff\0:\xfe").decode())], form(grant_type="client_credentials"), "invalid_client"),
    "Basic with SQL": ([FORM, ("Authorization", "Basic " + base64.b64encode(b"' OR 1=1 --:' OR 1=1 --").decode())], form(grant_type="client_credentials"), "invalid_client"),
    "Basic and form secret": ([FORM, ("Authorization", "Basic " + base64.b64encode(f"a:{SECRET}".encode()).decode())], form(grant_type="client_credentials", client_id="a", client_secret=SECRET), None),
    "Bearer at the token endpoint": ([FORM, ("Authorization", f"Bearer {SECRET}")], form(grant_type="client_credentials"), None),
    "client credentials of nobody": ([FORM], form(grant_type="client_credentials"), None),
    "two Authorization headers": ([FORM, ("Authorization", "Basic YTpi"), ("Authorization", "Basic YTpi")], form(grant_type="client_credentials"), None),
}


@pytest.mark.parametrize("case", TOKEN_CASES)
def test_token(desk, case):
    headers, body, error = TOKEN_CASES[case]
    check_oauth_error(send(desk.port, "POST", "/token", headers, body), error)


def test_credentials_in_the_query_are_not_taken(desk):
    query = urllib.parse.urlencode(LOGIN | {"password": PASSWORD})
    check_oauth_error(send(desk.port, "POST", f"/token?{query}", [FORM], b""), "invalid_request")
    partly = form(grant_type="password", username="admin")
    check_oauth_error(send(desk.port, "POST", f"/token?password={SECRET}", [FORM], partly), "invalid_request")
    check_problem(send(desk.port, "GET", f"/llm-keys?access_token={SECRET}"), [400, 401])
    check_problem(send(desk.port, "GET", f"/llm-keys?api_key={desk.service_api_key}&x={SECRET}"), [400, 401])


def sixty_megabytes():
    yield b"grant_type=password&username=admin&password=" + SECRET.encode()
    for _ in range(60):
        yield b"a" * MEGABYTE


@pytest.mark.parametrize("way", ["announced", "chunked"])
def test_a_60_mb_body_is_refused_while_it_arrives(desk, way):
    length = sum(len(piece) for piece in sixty_megabytes())
    headers = [FORM] if way == "chunked" else [FORM, ("Content-Length", str(length))]
    check_oauth_error(send(desk.port, "POST", "/token", headers, sixty_megabytes(), chunked=way == "chunked"), None, [400, 413])
    resident = int(pathlib.Path(f"/proc/{desk.process.pid}/statm").read_text().split()[1]) * 4096
    assert resident < 400 * MEGABYTE


def test_a_60_mb_body_where_none_belongs(desk):
    headers = [("Content-Length", str(60 * MEGABYTE)), ("X-API-Key", desk.service_api_key)]
    answer = send(desk.port, "POST", "/llm-keys", headers, (b"a" * MEGABYTE for _ in range(60)))
    check_problem(answer, [405, 413])


# Everything else answers with a problem.

PATHS = {
    "unknown route": f"/{WORD}",
    "unknown route with a query": f"/x?{WORD}={SECRET}",
    "invalid percent": f"/llm-keys/%zz{WORD}",
    "half an escape": "/llm-keys/%",
    "invalid UTF-8, escaped": "/llm-keys/%ff%fe",
    "NUL": "/llm-keys/%00",
    "control characters": "/llm-keys/%0d%0aX-Injected:%20yes",
    "climbing": "/x/../llm-keys",
    "climbing, escaped": "/x/%2e%2e/llm-keys",
    "two slashes": "//llm-keys",
    "capitals": "/LLM-KEYS",
    "a parameter in the path": "/llm-keys;a=b",
    "two segments": f"/llm-keys/openai/{WORD}",
    "8 KB path": "/" + "a" * 8000,
    "SQL": "/llm-keys/'%20OR%20'1'='1",
    "not a provider": "/llm-keys/" + "A" * 300,
    "unknown provider": f"/llm-keys/{WORD.lower()}",
    "unknown project": f"/llm-keys?project={WORD.lower()}",
    "every project": "/llm-keys?project=*",
    "repeated project": "/llm-keys?project=default&project=default",
    "project with NUL": "/llm-keys?project=default%00",
    "project with invalid UTF-8": "/llm-keys?project=%ff%fe",
    "project with invalid percent": "/llm-keys?project=%zz",
    "project with SQL": "/llm-keys?project=default'--",
    "1 KB project": "/llm-keys?project=" + "a" * 1024,
}


@pytest.mark.parametrize("asker", ["anonymous", "known"])
@pytest.mark.parametrize("case", PATHS)
def test_path(desk, case, asker):
    headers = [("X-API-Key", desk.service_api_key)] if asker == "known" else []
    answer = send(desk.port, "GET", PATHS[case], headers)
    check_problem(answer, range(400, 500))
    assert "x-injected" not in answer.headers
    assert not any(key.encode() in answer.body for key in desk.keys.values())


METHODS = {
    # path: what it allows
    "/token": {"POST"},
    "/llm-keys": {"GET", "HEAD"},
    "/llm-keys/openai": {"GET", "HEAD"},
    "/health": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/.well-known/jwks.json": {"GET", "HEAD"},
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", METHODS)
def test_wrong_method(desk, path, method):
    if method in METHODS[path]:
        pytest.skip("that one is right")
    answer = send(desk.port, method, path, [("X-API-Key", desk.service_api_key)])
    if path == "/token":
        # No token request reached the endpoint, so either format is right; text is not.
        check(answer, [405])
        assert answer.media_type in ("application/json", "application/problem+json")
    else:
        check_problem(answer, [405])
    allowed = {name.strip() for name in answer.headers["allow"].split(",")}
    assert allowed - {"HEAD"} == METHODS[path] - {"HEAD"}


# Junk where a credential belongs.

JWT_PARTS = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (
    {"alg": "none", "typ": "at+jwt"}, {"iss": "x", "sub": "admin", "scope": "llm-keys:read", "exp": 9999999999})]

JUNK = {
    "SQL": "' OR '1'='1",
    "SQL comment": "\"; DROP TABLE api_keys; --",
    "one character": "x",
    "words": f"{SECRET} {SECRET}",
    "API key with a wrong checksum": "kd_ak_" + "A" * 43 + "000000",
    "API key that is too short": "kd_ak_abc",
    "API key with a wrong letter": "kd_ak_" + "-" * 49,
    "API key of 8 KB": "kd_ak_" + "A" * 8000,
    "client secret": "kd_cs_" + "A" * 49,
    "refresh token": "kd_rt_" + "A" * 49,
    "unsigned JWT": f"{JWT_PARTS[0]}.{JWT_PARTS[1]}.",
    "JWT of dots": "." * 50,
    "JWE": "a.b.c.d.e",
    "8 KB": SECRET + "a" * 8000,
    "Latin-1": b"\xe9\xff\xfe" + SECRET.encode(),
    "UTF-8": "пароль".encode(),
    "tabs": "a\tb",
}


@pytest.mark.parametrize("place", ["Bearer", "X-API-Key", "X-Service-Account", "bare Authorization"])
@pytest.mark.parametrize("case", JUNK)
def test_junk_credential(desk, case, place):
    junk = JUNK[case] if isinstance(JUNK[case], bytes) else JUNK[case].encode()
    headers = {
        "Bearer": [("Authorization", b"Bearer " + junk)],
        "X-API-Key": [("X-API-Key", junk)],
        "X-Service-Account": [("Authorization", f"Bearer {desk.service_api_key}"), ("X-Service-Account", junk)],
        "bare Authorization": [("Authorization", junk)],
    }[place]
    answer = send(desk.port, "GET", "/llm-keys", headers)
    check_problem(answer, [400, 401, 403])
    if answer.status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("headers", [
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer ")],
    [("Authorization", "")],
    [("Authorization", "Basic YWRtaW46YWRtaW4=")],
    [("Authorization", f"Digest username={SECRET}")],
    [("X-API-Key", "")],
    [("X-API-Key", " ")],
    [("Cookie", f"token={SECRET}")],
    [("X-Service-Account", "default")],
], ids=lambda headers: f"{headers[0][0]}: {headers[0][1]}".replace(SECRET, "…"))
def test_credential_that_is_none(desk, headers):
    check_problem(send(desk.port, "GET", "/llm-keys", headers), [400, 401])


def test_a_repeated_credential_is_refused(desk):
    right = ("X-API-Key", desk.service_api_key)
    bearer = ("Authorization", f"Bearer {desk.service_api_key}")
    for headers in ([right, right], [bearer, bearer], [bearer, right], [right, ("X-API-Key", "junk")]):
        check_problem(send(desk.port, "GET", "/llm-keys", headers), [400])


def test_a_login_is_no_credential_at_the_keys(desk):
    basic = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
    check_problem(send(desk.port, "GET", "/llm-keys", [("Authorization", f"Basic {basic}")]), [400, 401])


@pytest.mark.parametrize("headers", [
    [("X-API-Key", b"a\0b")],
    [("X-API-Key", b"a\rb")],
    [("X-API-Key", "a" * 1_000_000)],
    [("Authorization", "Bearer " + "a" * 1_000_000)],
    [(f"X-{n}", "x") for n in range(500)],
    [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
    [("Content-Length", "-1")],
    [("Host", "evil.example")],
], ids=["NUL", "bare CR", "1 MB key", "1 MB token", "500 headers", "two lengths", "negative length", "two hosts"])
def test_what_is_not_http(desk, headers):
    # Refused before there is a request: the bare HTTP answer has no body to be in the wrong format.
    answer = send(desk.port, "GET", "/llm-keys", headers)
    assert answer.status is None or 400 <= answer.status < 500, answer.status
    assert answer.seconds < QUICK
    if answer.body:
        assert answer.media_type == "application/problem+json"


def test_the_desk_is_well_and_the_log_has_no_secret(desk):
    """Runs last in this file: after all of the above."""
    assert desk.get("/health").json() == {"status": "healthy"}
    assert desk.get("/llm-keys", headers={"X-API-Key": desk.service_api_key}).json() == desk.expected_keys()
    log = desk.log.read_bytes()
    assert b"panicked" not in log
    for secret in (SECRET, PASSWORD, desk.service_api_key):
        assert secret.encode() not in log
        assert urllib.parse.quote(secret).encode() not in log
        assert urllib.parse.quote_plus(secret).encode() not in log
