"""Anybody's JWT library verifies our access token from the published keys alone: PyJWT and jose."""

import base64
import json
import shutil
import subprocess

import jwt
import pytest

from conftest import ROOT, WORK

AUDIENCE = "keydesk"


@pytest.fixture(scope="module", params=["EdDSA", "ES256", "RS256"])
def issued(request, new_desk):
    """A desk that signs with one algorithm, and a token of it."""
    desk = new_desk(KEYDESK_TOKEN__ALGORITHM=request.param).start()
    yield desk, request.param, desk.login()
    desk.stop()


def pyjwt(desk, algorithm, token, **different):
    keys = jwt.PyJWKClient(f"{desk.url}/.well-known/jwks.json")
    expected = {"issuer": desk.url, "audience": AUDIENCE, **different}
    required = ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope"]
    return jwt.decode_complete(
        token, keys.get_signing_key_from_jwt(token), algorithms=[algorithm], options={"require": required}, **expected
    )


def jose(desk, algorithm, token, /, **different):
    """Runs verify.mjs where its packages are; returns (verified, claims or jose's error code)."""
    modules = WORK / "node"
    shutil.copy(ROOT / "tests" / "interop" / "verify.mjs", modules)
    asked = {
        "token": token, "jwks": f"{desk.url}/.well-known/jwks.json", "issuer": desk.url,
        "audience": AUDIENCE, "algorithm": algorithm, "typ": "at+jwt", **different,
    }
    done = subprocess.run(
        ["node", "verify.mjs"], cwd=modules, input=json.dumps(asked), text=True, capture_output=True, timeout=60
    )
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    return done.returncode == 0, json.loads(done.stdout)


def forged(token):
    """The same token in somebody else's name."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = json.dumps({**claims, "username": "root"}).encode()
    return f"{header}.{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{signature}"


def test_the_published_keys_are_public_and_findable(issued):
    desk, algorithm, token = issued
    metadata = desk.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == desk.url
    assert metadata["jwks_uri"] == f"{desk.url}/.well-known/jwks.json"
    assert metadata["token_endpoint"] == f"{desk.url}/token"
    answer = desk.get("/.well-known/jwks.json")
    assert "max-age" in answer.headers["Cache-Control"]
    keys = answer.json()["keys"]
    header = jwt.get_unverified_header(token)
    assert header["kid"] in {key["kid"] for key in keys}
    for key in keys:
        assert key["kty"] in ("OKP", "EC", "RSA") and key["use"] == "sig"
        assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(key), "a private member is published"
    assert header["alg"] == algorithm


def test_pyjwt_verifies(issued):
    desk, algorithm, token = issued
    verified = pyjwt(desk, algorithm, token)
    assert verified["header"]["typ"] == "at+jwt"
    claims = verified["payload"]
    assert claims["exp"] - claims["iat"] == 600
    assert claims["scope"] == "llm-keys:read"
    assert claims["username"] == "admin"


@pytest.mark.parametrize("different, error", [
    ({"issuer": "http://127.0.0.1:1"}, jwt.InvalidIssuerError),
    ({"audience": "somebody-else"}, jwt.InvalidAudienceError),
])
def test_pyjwt_refuses_the_wrong_issuer_and_audience(issued, different, error):
    with pytest.raises(error):
        pyjwt(*issued, **different)


def test_pyjwt_refuses_a_changed_token(issued):
    desk, algorithm, token = issued
    with pytest.raises(jwt.InvalidSignatureError):
        pyjwt(desk, algorithm, forged(token))
    # And so do we.
    answer = desk.get("/llm-keys", headers={"Authorization": f"Bearer {forged(token)}"})
    assert answer.status_code == 401
    assert desk.get("/llm-keys", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_jose_verifies(issued):
    verified, claims = jose(*issued)
    assert verified, claims
    assert claims["username"] == "admin"


@pytest.mark.parametrize("different, code", [
    ({"issuer": "http://127.0.0.1:1"}, "ERR_JWT_CLAIM_VALIDATION_FAILED"),
    ({"audience": "somebody-else"}, "ERR_JWT_CLAIM_VALIDATION_FAILED"),
    ({"typ": "JWT"}, "ERR_JWT_CLAIM_VALIDATION_FAILED"),
    ({"algorithm": "PS256"}, "ERR_JOSE_ALG_NOT_ALLOWED"),
])
def test_jose_refuses_what_is_not_meant_for_it(issued, different, code):
    assert jose(*issued, **different) == (False, {"code": code})


def test_jose_refuses_a_changed_token(issued):
    desk, algorithm, token = issued
    assert jose(desk, algorithm, forged(token)) == (False, {"code": "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"})
