"""Standard OAuth client libraries, unmodified, configured with the issuer's URL and credentials and nothing else.

Each does the same things and reports them in the same words; `check` reads the reports. Plain HTTP on a loopback address is
allowed by each library's own switch.
"""

import json
import shutil
import subprocess

import pytest
import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient, OAuth2Error
from requests_oauthlib import OAuth2Session

from conftest import ROOT, WORK

HERE = ROOT / "tests" / "interop"
RUST_CLIENT = WORK / "oauth2-client" / "debug" / "oauth2-client"

PUBLIC_CLIENT = "keydesk"
AUDIENCE = "keydesk"
USER, PASSWORD = "alice", "every good boy deserves fudge"


@pytest.fixture(scope="module")
def configuration(desk):
    """All that a client is told."""
    desk.cli("user", "add", USER, "--project", "default", "--password-stdin", stdin=PASSWORD + "\n")
    machine = desk.cli_json("service-account", "add", "ci", "--project", "default")
    return {
        "issuer": desk.url, "audience": AUDIENCE, "public_client": PUBLIC_CLIENT, "username": USER, "password": PASSWORD,
        "client_id": machine["client_id"], "client_secret": machine["client_secret"],
    }


def program(*command, folder, configuration):
    done = subprocess.run(command, cwd=folder, input=json.dumps(configuration), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def javascript(name):
    def run(configuration):
        modules = WORK / "node"
        shutil.copy(HERE / name, modules)
        return program("node", name, folder=modules, configuration=configuration)

    return run


def rust(configuration):
    if not RUST_CLIENT.exists():
        assert not shutil.which("cargo"), "scripts/test builds this client"
        pytest.skip("there is no cargo to build it with")
    return program(str(RUST_CLIENT), folder=HERE, configuration=configuration)


def keys_status(issuer, token):
    """The refusal of a token that is void says that it is the token."""
    answer = requests.get(f"{issuer}/llm-keys", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200 or 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    return answer.status_code


def authlib(configuration):
    issuer = configuration["issuer"]
    metadata = AuthorizationServerMetadata(requests.get(get_well_known_url(issuer, external=True), timeout=30).json())
    for name in metadata.REGISTRY_KEYS:
        # RFC 8414 requires `response_types_supported`, and a desk without an authorization endpoint supports none. Authlib
        # takes an empty list for a missing one.
        if name != "response_types_supported":
            getattr(metadata, f"validate_{name}")()
    token_url = metadata["token_endpoint"]

    def client(name, secret=None, method="none"):
        return AuthlibSession(
            name, secret, token_endpoint=token_url, token_endpoint_auth_method=method,
            revocation_endpoint_auth_method=method,
        )

    def refusal(ask):
        with pytest.raises(OAuthError) as caught:
            ask()
        return caught.value.error

    report = {"metadata": dict(metadata)}
    name, password = configuration["username"], configuration["password"]
    person = client(configuration["public_client"])
    report["wrong_password"] = refusal(lambda: person.fetch_token(username=name, password=password + "x"))
    report["password"] = dict(person.fetch_token(username=name, password=password))
    report["refreshed"] = dict(person.refresh_token(token_url))
    machines = {
        way: client(configuration["client_id"], configuration["client_secret"], f"client_secret_{way}")
        for way in ("basic", "post")
    }
    for way, machine in machines.items():
        report[way] = dict(machine.fetch_token(grant_type="client_credentials"))

    def introspect(token):
        answer = machines["basic"].introspect_token(metadata["introspection_endpoint"], token=token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    tokens = [report[way]["access_token"] for way in ("password", "refreshed", "basic", "post")]
    report["active"] = introspect(tokens[1])
    report["keys"] = [person.get(f"{issuer}/llm-keys").status_code, *(keys_status(issuer, token) for token in tokens[1:])]
    second = report["refreshed"]["refresh_token"]
    revocation = metadata["revocation_endpoint"]
    for answer in (
        person.revoke_token(revocation, token=second, token_type_hint="refresh_token"),
        machines["basic"].revoke_token(revocation, token=tokens[2]),
        machines["post"].revoke_token(revocation, token=tokens[3], token_type_hint="access_token"),
    ):
        assert answer.status_code == 200, answer.text
    report["refresh_after"] = refusal(lambda: person.refresh_token(token_url, refresh_token=second))
    report["inactive"] = [introspect(token) for token in tokens]
    report["keys_after"] = [keys_status(issuer, token) for token in tokens]
    return report


def requests_oauthlib(configuration):
    """It fetches and refreshes tokens; discovery is a GET, revocation oauthlib prepares, introspection is a plain form."""
    issuer = configuration["issuer"]
    metadata = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=30).json()
    token_url = metadata["token_endpoint"]
    name, password = configuration["username"], configuration["password"]
    machine_id, machine_secret = configuration["client_id"], configuration["client_secret"]
    basic_auth = requests.auth.HTTPBasicAuth(machine_id, machine_secret)
    public = {"client_id": configuration["public_client"]}

    def refusal(ask):
        with pytest.raises(OAuth2Error) as caught:
            ask()
        return caught.value.error

    report = {"metadata": metadata}
    person = OAuth2Session(client=LegacyApplicationClient(**public))
    log_in = {"username": name, "include_client_id": True}
    report["wrong_password"] = refusal(lambda: person.fetch_token(token_url, password=password + "x", **log_in))
    report["password"] = dict(person.fetch_token(token_url, password=password, **log_in))
    report["refreshed"] = dict(person.refresh_token(token_url, **public))
    machine = OAuth2Session(client=BackendApplicationClient(machine_id))
    report["basic"] = dict(machine.fetch_token(token_url, auth=basic_auth))
    machine = OAuth2Session(client=BackendApplicationClient(machine_id))
    report["post"] = dict(machine.fetch_token(token_url, client_secret=machine_secret, include_client_id=True))

    def introspect(token):
        answer = requests.post(metadata["introspection_endpoint"], data={"token": token}, auth=basic_auth, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def revoke(client, token, hint, auth=None, **more):
        url, headers, body = client.prepare_token_revocation_request(
            metadata["revocation_endpoint"], token, token_type_hint=hint, **more
        )
        answer = requests.post(url, headers=headers, data=body, auth=auth, timeout=30)
        assert answer.status_code == 200, answer.text

    tokens = [report[way]["access_token"] for way in ("password", "refreshed", "basic", "post")]
    report["active"] = introspect(tokens[1])
    with_session = [person.get(f"{issuer}/llm-keys").status_code]
    report["keys"] = [keys_status(issuer, tokens[0]), *with_session, *(keys_status(issuer, token) for token in tokens[2:])]
    second = report["refreshed"]["refresh_token"]
    revoke(LegacyApplicationClient(**public), second, "refresh_token", **public)
    revoke(BackendApplicationClient(machine_id), tokens[2], "access_token", auth=basic_auth)
    revoke(BackendApplicationClient(machine_id), tokens[3], "access_token", client_id=machine_id, client_secret=machine_secret)
    report["refresh_after"] = refusal(lambda: person.refresh_token(token_url, refresh_token=second, **public))
    report["inactive"] = [introspect(token) for token in tokens]
    report["keys_after"] = [keys_status(issuer, token) for token in tokens]
    return report


CLIENTS = {
    "oauth4webapi": javascript("oauth4webapi.mjs"),
    "openid-client": javascript("openid-client.mjs"),
    "Authlib": authlib,
    "requests-oauthlib": requests_oauthlib,
    "Rust oauth2": rust,
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_standard_client_needs_only_the_issuer(desk, configuration, name, monkeypatch):
    # The Python libraries' own switches for plain HTTP.
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    check(desk, configuration, CLIENTS[name](configuration))


def check(desk, configuration, report):
    assert report["wrong_password"] == "invalid_grant"
    for way in ("password", "refreshed", "basic", "post"):
        answer = report[way]
        assert answer["token_type"].lower() == "bearer" and answer["expires_in"] == 600, (way, answer)
        scope = answer["scope"]
        assert (scope if isinstance(scope, str) else " ".join(scope)) == "llm-keys:read", (way, answer)
        # RFC 6749 §4.4.3: a machine asks again instead.
        assert bool(answer.get("refresh_token")) == (way in ("password", "refreshed")), (way, answer)
    assert report["password"]["refresh_token"].startswith("kd_rt_")
    assert report["password"]["refresh_token"] != report["refreshed"]["refresh_token"]

    active = report["active"]
    assert active["active"] is True
    assert (active["client_id"], active["username"], active["scope"]) == (PUBLIC_CLIENT, USER, "llm-keys:read")
    for name, expected in {"iss": desk.url, "aud": AUDIENCE, "token_type": "Bearer"}.items():
        # The Rust crate makes lists and lower case of some.
        assert str(active[name]).strip("[]'").lower() == expected.lower(), active
    if "claims" in report:
        assert {report["claims"][name] == active[name] for name in ("sub", "jti", "exp", "iat")} == {True}
    if "resource" in report:
        assert report["resource"]["authorization_servers"] == [desk.url]

    assert report["keys"] == [200, 200, 200, 200]
    # The refresh token's revocation took its session's access tokens along, the spent one's too.
    assert report["keys_after"] == [401, 401, 401, 401]
    for answer in report["inactive"]:
        assert {name: value for name, value in answer.items() if value is not None} == {"active": False}
    assert report["refresh_after"] == "invalid_grant"

    # The same without any library in between, exactly.
    basic = (configuration["client_id"], configuration["client_secret"])
    for way in ("password", "refreshed", "basic", "post"):
        token = report[way]["access_token"]
        answer = requests.post(f"{desk.url}/introspect", data={"token": token}, auth=basic, timeout=30)
        assert (answer.status_code, answer.text) == (200, '{"active":false}')
        assert keys_status(desk.url, token) == 401


def test_metadata_lists_what_works(desk, configuration):
    """Every grant and every way of authenticating that the metadata name is answered as such, and the others are not."""
    metadata = desk.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == desk.url
    assert set(metadata["grant_types_supported"]) == {"password", "client_credentials", "refresh_token"}
    assert set(metadata["token_endpoint_auth_methods_supported"]) == {"client_secret_basic", "client_secret_post", "none"}
    assert "none" not in metadata["introspection_endpoint_auth_methods_supported"]
    for name, value in metadata.items():
        if name.endswith(("_endpoint", "_uri")):
            assert value.startswith(f"{desk.url}/"), name
    for grant in ("authorization_code", "implicit", "urn:ietf:params:oauth:grant-type:device_code"):
        answer = desk.token_response(data={"grant_type": grant, "client_id": PUBLIC_CLIENT, "code": "x"})
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")
    # The issuer is configured; what a client says of the host changes nothing.
    for headers in ({"X-Forwarded-Host": "evil.example"}, {"Forwarded": "host=evil.example"}, {"X-Forwarded-Proto": "https"}):
        for path in ("oauth-authorization-server", "oauth-protected-resource"):
            url = f"/.well-known/{path}"
            assert desk.get(url, headers=headers).json() == desk.get(url).json()
    # A service account asks about tokens; the public client and nobody do not.
    for extra in ({}, {"client_id": PUBLIC_CLIENT}):
        answer = requests.post(f"{desk.url}/introspect", data={"token": "x", **extra}, timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
