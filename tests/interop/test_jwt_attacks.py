"""Forged, twisted and replayed access tokens, on every route that takes one: all are refused, in words and without a trace.

What is signed by the desk's own key and wrong all the same cannot be made from outside; the unit tests of the verifier do that.
"""

import base64
import concurrent.futures
import datetime
import hashlib
import hmac
import json
import socket
import threading

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from conftest import PASSWORD
from openapi_routes import operations

SCOPES = "llm-keys:read llm-keys:write audit:read admin"
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
HMACS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
THREADS = 8


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def compact(value):
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


class Listener:
    """Where headers of forged tokens point. Nothing may ever connect."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/keys.json"
        self.connections = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


@pytest.fixture(scope="module")
def listener():
    made = Listener()
    yield made
    made.socket.close()


class Attacker:
    """Keys of somebody else's."""

    def __init__(self):
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ec384 = ec.generate_private_key(ec.SECP384R1())
        self.rsa = rsa.generate_private_key(65537, 2048)

    def sign(self, algorithm, data):
        if algorithm == "EdDSA":
            return self.ed.sign(data)
        if algorithm in ("ES256", "ES384"):
            key, size, digest = (self.ec, 32, hashes.SHA256()) if algorithm == "ES256" else (self.ec384, 48, hashes.SHA384())
            r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        pad = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if algorithm == "PS256" else padding.PKCS1v15()
        return self.rsa.sign(data, pad, hashes.SHA256())

    def jwk(self):
        raw = self.ed.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), "alg": "EdDSA", "use": "sig"}

    def certificate(self):
        """Self-signed, for `x5c`."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "keydesk")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, self.ec.public_key(), 1, now, now + datetime.timedelta(1))
        return builder.sign(self.ec, hashes.SHA256()).public_bytes(Encoding.DER)


ATTACKER = Attacker()


class Genuine:
    """A valid token of an administrator, in parts, and the public key that verifies it."""

    def __init__(self, desk):
        self.token = desk.login("admin", PASSWORD, scope=SCOPES)
        self.parts = self.token.split(".")
        self.header, self.claims = (json.loads(unb64(part)) for part in self.parts[:2])
        self.signature = unb64(self.parts[2])
        keys = desk.get("/.well-known/jwks.json").json()["keys"]
        self.jwk = next(key for key in keys if key["kid"] == self.header["kid"])
        self.public = PyJWK(self.jwk).key

    def with_header(self, changes, signature=None, drop=()):
        header = {name: value for name, value in (self.header | changes).items() if name not in drop}
        return f"{b64(compact(header))}.{self.parts[1]}.{self.parts[2] if signature is None else b64(signature)}"

    def signed(self, algorithm, header=(), claims=(), drop=(), drop_claims=()):
        """The attacker's own signature under a header that may say anything."""
        header = {k: v for k, v in {**self.header, "alg": algorithm, **dict(header)}.items() if k not in drop}
        claims = {k: v for k, v in {**self.claims, **dict(claims)}.items() if k not in drop_claims}
        said = f"{b64(compact(header))}.{b64(compact(claims))}"
        return f"{said}.{b64(ATTACKER.sign(algorithm, said.encode()))}"

    def hmac(self, algorithm, key, header=(), drop=()):
        header = {k: v for k, v in {**self.header, "alg": algorithm, **dict(header)}.items() if k not in drop}
        said = f"{b64(compact(header))}.{self.parts[1]}"
        return f"{said}.{b64(hmac.new(key, said.encode(), HMACS[algorithm]).digest())}"


def no_algorithm(real):
    for alg in ("none", "None", "NONE", "nOnE", "none ", "", None, [], ["EdDSA"], 0, False, "HS256 ", "eddsa", "es256"):
        for name, signature in (("", b""), (" and the old signature", None), (" and a word", b"none")):
            yield f"alg {alg!r}{name}", real.with_header({"alg": alg}, signature)
    yield "alg none, two segments", real.with_header({"alg": "none"}).rsplit(".", 1)[0]
    yield "no alg", real.with_header({}, b"", drop=["alg"])
    yield "no alg, the old signature", real.with_header({}, drop=["alg"])


def confusion(real):
    """The public key is known to everybody; as an HMAC key it must open nothing."""
    pem = real.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = real.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    lines = b"".join(line for line in pem.splitlines() if b"-----" not in line)
    forms = {
        "PEM": pem, "PEM without the last newline": pem.rstrip(), "PEM with CRLF": pem.replace(b"\n", b"\r\n"),
        "PEM's base64": lines, "DER": der, "JWK": compact(real.jwk), "JWK sorted": compact(dict(sorted(real.jwk.items()))),
        "JWK with spaces": json.dumps(real.jwk).encode(), "JWK Set": compact({"keys": [real.jwk]}), "kid": real.header["kid"].encode(),
    }
    if isinstance(real.public, rsa.RSAPublicKey):
        pkcs1 = real.public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
        forms |= {"PKCS1": pkcs1, "PKCS1 without the last newline": pkcs1.rstrip(), "n": unb64(real.jwk["n"])}
    else:
        forms |= {"x": unb64(real.jwk["x"]), "x as text": real.jwk["x"].encode()}
    if isinstance(real.public, ec.EllipticCurvePublicKey):
        forms["point"] = real.public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    for name, key in forms.items():
        for algorithm in HMACS:
            yield f"{algorithm} with the public key as {name}", real.hmac(algorithm, key)
    for word in (b"", b"\0", b"\0" * 32, b"secret", b"keydesk", b"changeme", b"your-256-bit-secret", b"null", b"undefined"):
        yield f"HS256 with {word!r}", real.hmac("HS256", word)
        yield f"HS256 with {word!r}, no kid", real.hmac("HS256", word, drop=["kid"])


def signatures(real):
    size = len(real.signature)
    flipped = bytes([real.signature[0] ^ 1]) + real.signature[1:]
    forged = {
        "none": b"", "a null byte": b"\0", "zeros": b"\0" * size, "ones": b"\xff" * size, "a flipped bit": flipped,
        "a flipped last bit": real.signature[:-1] + bytes([real.signature[-1] ^ 1]), "short": real.signature[:-1],
        "long": real.signature + b"\0", "twice": real.signature * 2, "reversed": real.signature[::-1],
        "SHA-256 of what is signed": hashlib.sha256(".".join(real.parts[:2]).encode()).digest(),
    }
    if real.header["alg"] == "EdDSA":
        scalar = int.from_bytes(real.signature[32:], "little") + ED25519_ORDER
        forged["the same modulo the order"] = real.signature[:32] + scalar.to_bytes(32, "little")
        forged["the identity"] = b"\x01" + b"\0" * 63
    for name, signature in forged.items():
        yield f"signature: {name}", f"{real.parts[0]}.{real.parts[1]}.{b64(signature)}"
    yield "signature: no segment", ".".join(real.parts[:2])
    for algorithm in ("EdDSA", "ES256", "ES384", "RS256", "PS256"):
        yield f"{algorithm} zeros", real.with_header({"alg": algorithm}, b"\0" * 64)
        yield f"{algorithm} by another key", real.signed(algorithm)
        yield f"{algorithm} by another key, no kid", real.signed(algorithm, drop=["kid"])
        yield f"{algorithm} by another key, another kid", real.signed(algorithm, {"kid": "x" * 43})


def key_hints(real, listener):
    """Where to find the key, says the attacker."""
    jwk, url = ATTACKER.jwk(), listener.url
    certificate = base64.b64encode(ATTACKER.certificate()).decode()
    thumbprint = b64(hashlib.sha256(compact({name: jwk[name] for name in ("crv", "kty", "x")})).digest())
    hints = {
        "jwk": {"jwk": jwk}, "jwk and its kid": {"jwk": {**jwk, "kid": thumbprint}, "kid": thumbprint},
        "jwk with our kid": {"jwk": {**jwk, "kid": real.header["kid"]}}, "jku": {"jku": url}, "x5u": {"x5u": url},
        "jku and jwk": {"jku": url, "jwk": jwk}, "kid is a URL": {"kid": url}, "iss and jku": {"jku": url, "kid": thumbprint},
        "jku of ours with an @": {"jku": f"{real.claims['iss']}@{url.removeprefix('http://')}"},
    }
    for name, header in hints.items():
        yield name, real.signed("EdDSA", header)
        yield f"{name}, no kid", real.signed("EdDSA", header, drop=["kid"])
        yield f"{name}, signature kept", real.with_header(header)
    for header in ({"x5c": [certificate]}, {"x5c": [certificate], "x5t": thumbprint, "x5t#S256": thumbprint}):
        yield f"{sorted(header)}", real.signed("ES256", header)
    yield "iss elsewhere", real.signed("EdDSA", claims={"iss": url.rsplit("/", 1)[0]})


def kid_tricks(real):
    kids = [
        "", " ", "../../dev/null", "/dev/null", "../../../../../../proc/self/environ", "/proc/self/environ", "' UNION SELECT 'x",
        "' UNION SELECT 'x'; --", "x' or '1'='1", "|sleep 10", "`sleep 10`", "$(sleep 10)", "; sleep 10 #", "\0", "null",
        real.header["kid"] + " ", real.header["kid"].upper(), real.header["kid"].lower(), real.header["kid"][:-1],
        real.header["kid"] + "\0", "A" * 4000, "\u212a", None, 0, 1e308, True, [], [real.header["kid"]], {}, {"kid": real.header["kid"]},
    ]
    for kid in kids:
        shown = str(kid)[:30]
        yield f"kid {shown!r}", real.with_header({"kid": kid})
        yield f"kid {shown!r}, own signature", real.signed("EdDSA", {"kid": kid})
        # What an injected query or an empty file would make the key.
        yield f"kid {shown!r}, HMAC with an empty key", real.hmac("HS256", b"", {"kid": kid})
        yield f"kid {shown!r}, HMAC with x", real.hmac("HS256", b"x", {"kid": kid})


def headers(real):
    changed = {
        "crit unknown": {"crit": ["exp-ext"], "exp-ext": True}, "crit empty": {"crit": []}, "crit null": {"crit": None},
        "crit a word": {"crit": "b64"}, "b64 false": {"crit": ["b64"], "b64": False}, "zip": {"zip": "DEF"}, "cty": {"cty": "JWT"},
        "enc": {"enc": "A256GCM"},
    }
    for typ in ("JWT", "AT+JWT", "at+JWT", "jwt", "at+jwt ", "application/at+jwt; x", "logout+jwt", "refresh", "", None, 1, ["at+jwt"]):
        changed[f"typ {typ!r}"] = {"typ": typ}
    for name, header in changed.items():
        yield name, real.with_header(header)
        yield f"{name}, own signature", real.signed("EdDSA", header)
    yield "no typ", real.with_header({}, drop=["typ"])
    for name, text in {"a list": b"[]", "a string": b'"at+jwt"', "null": b"null", "nothing": b"", "not JSON": b"{alg:EdDSA}", "not UTF-8": b'{"alg":"\xff"}'}.items():
        yield f"header is {name}", f"{b64(text)}.{real.parts[1]}.{real.parts[2]}"
    whole = compact(real.header)
    for name, text in {
        "BOM": b"\xef\xbb\xbf" + whole, "duplicate alg": b'{"alg":"none",' + whole[1:], "duplicate alg last": whole[:-1] + b',"alg":"none"}',
        "duplicate kid": b'{"kid":"x",' + whole[1:], "trailing bytes": whole + b"{}", "a comment": b"/**/" + whole, "deep": b"[" * 5000,
    }.items():
        yield f"header with {name}", f"{b64(text)}.{real.parts[1]}.{real.parts[2]}"


def claims(real):
    now = real.claims["iat"]
    wrong = {
        "iss": ["", None, 0, [], [real.claims["iss"]], real.claims["iss"] + "/", real.claims["iss"].upper(), "https://evil.example", {}],
        "aud": ["", None, 0, [], ["x"], [0], [[real.claims["aud"]]], "Keydesk", "keydesk ", "keydesk.evil.example", {"keydesk": True}],
        "sub": ["", None, 0, [], "' or '1'='1", "admin", "root", "*"],
        "exp": [0, -1, now - 1, str(now + 600), now + 0.5, 1e30, 2**53, 2**63, 2**64 - 1, 2**64, None, [], True, now + 10**6],
        "iat": [now + 3600, -1, str(now), None, 2**64 - 1, 1e300],
        "nbf": [now + 3600, 2**64 - 1, "tomorrow"],
        "jti": ["", None, 0, [], "' or '1'='1"],
        "scope": ["admin admin", None, ["admin"], "*", 7],
        "client_id": ["", None, 0],
        "username": ["root", None],
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} is {str(value)[:25]!r} ({type(value).__name__})", real.signed("EdDSA", claims={name: value})
        yield f"no {name}", real.signed("EdDSA", drop_claims=[name])
        changed = b64(compact(real.claims | {name: values[0]}))
        yield f"{name} changed, signature kept", f"{real.parts[0]}.{changed}.{real.parts[2]}"
    for name, text in {"a list": b"[]", "null": b"null", "nothing": b"", "not JSON": b"{", "not UTF-8": b'{"sub":"\xff"}'}.items():
        yield f"payload is {name}", f"{real.parts[0]}.{b64(text)}.{real.parts[2]}"
    whole = compact(real.claims)
    for name, text in {"duplicate sub": b'{"sub":"x",' + whole[1:], "spaces": whole.replace(b",", b", "), "BOM": b"\xef\xbb\xbf" + whole}.items():
        yield f"payload with {name}", f"{real.parts[0]}.{b64(text)}.{real.parts[2]}"


def malleable(real):
    """The valid token, written differently."""
    header, payload, signature = real.parts
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for number, part in enumerate(real.parts):
        def instead(text, number=number):
            return ".".join([*real.parts[:number], text, *real.parts[number + 1:]])

        name = ("header", "payload", "signature")[number]
        yield f"{name} padded with =", instead(part + "=")
        yield f"{name} padded with ==", instead(part + "==")
        yield f"{name} with %3D", instead(part + "%3D")
        if number:  # `Bearer` may be followed by several spaces
            yield f"{name} with a space before", instead(" " + part)
        yield f"{name} with a space inside", instead(part[:10] + " " + part[10:])
        yield f"{name} with a tab inside", instead(part[:10] + "\t" + part[10:])
        yield f"{name} with A appended", instead(part + "A")
        yield f"{name} empty", instead("")
        standard = part.replace("-", "+").replace("_", "/")
        if standard != part:
            yield f"{name} in the other alphabet", instead(standard)
        if len(part) % 4:
            # The last character carries bits that decode to nothing.
            for bits in range(1, 16 if len(part) % 4 == 2 else 4):
                yield f"{name} with trailing bits {bits}", instead(part[:-1] + alphabet[alphabet.index(part[-1]) ^ bits])
    for length in (1, 20, 100, len(real.token) // 2, len(real.token) - 1):
        yield f"the first {length} characters", real.token[:length]
    yield "the last character changed", real.token[:-1] + ("A" if real.token[-1] not in "AQgw" else "B")
    yield "the last character in other case", real.token[:-2] + real.token[-2:].swapcase()
    others = {
        "a dot after": real.token + ".", "a dot before": "." + real.token, "four segments": f"{real.token}.{signature}",
        "five segments": f"{header}.{payload}.{signature}.{payload}.{signature}", "one segment": header, "only dots": "..",
        "dots": "....", "twice": f"{real.token},{real.token}", "two words": f"{real.token} {real.token}", "quoted": f'"{real.token}"',
        "swapped": f"{payload}.{header}.{signature}", "upper case": real.token.upper(), "percent": real.token.replace(".", "%2E"),
        "JSON": json.dumps({"protected": header, "payload": payload, "signature": signature}, separators=(",", ":")),
        "base64 of it": b64(real.token.encode()), "not ASCII": real.token + "\xe9", "a JWE": f"{b64(compact({'alg': 'dir', 'enc': 'A256GCM'}))}..{payload}.{payload}.{signature}",
    }
    yield from others.items()
    yield "20 KB of claims", real.signed("EdDSA", claims={"x": "A" * 15000})
    yield "20 KB of signature", f"{header}.{payload}.{signature}{'A' * 20000}"
    yield "20 KB of dots", "." * 20000


def attacks(real, listener):
    made = {}
    for group in (no_algorithm(real), confusion(real), signatures(real), key_hints(real, listener), kid_tricks(real), headers(real), claims(real), malleable(real)):
        for name, token in group:
            # Some tricks come to nothing for some tokens.
            if token != real.token:
                made[name] = token
    return made


def refused(answer):
    """What is wrong with a refusal, if anything."""
    challenge = answer.headers.get("WWW-Authenticate", "")
    if answer.status_code == 431:  # too long to be looked at; that is no answer about a token
        return None
    if answer.status_code != 401:
        return f"{answer.status_code} {answer.text[:200]}"
    if not challenge.startswith("Bearer") or 'error="invalid_token"' not in challenge:
        return f"WWW-Authenticate: {challenge!r}"
    if "no-store" not in answer.headers.get("Cache-Control", ""):
        return f"Cache-Control: {answer.headers.get('Cache-Control')!r}"
    return None


def try_all(desk, listener, routes, real, tokens):
    """Every token on every route, a few at a time; returns what was not refused as it should be."""
    slow = []

    def on_route(route):
        wrong = []
        with requests.Session() as http:
            for name, token in tokens.items():
                headers = {**route.headers(), "Authorization": f"Bearer {token}".encode("latin-1")}
                answer = http.request(route.method, f"{desk.url}{route.path}", headers=headers, data=route.body(), timeout=60)
                if problem := refused(answer):
                    wrong.append(f"{route}: {name}: {problem}")
                if answer.elapsed.total_seconds() > 8:  # `sleep 10`
                    slow.append(f"{route}: {name}: {answer.elapsed}")
            # None of them did anything to the valid one, and none of them is remembered as it.
            answer = http.get(f"{desk.url}/llm-keys", headers={"Authorization": f"Bearer {real.token}"}, timeout=60)
            if answer.status_code != 200:
                wrong.append(f"after {route} the valid token is answered {answer.status_code}")
        return wrong

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        wrong = [line for lines in pool.map(on_route, routes) for line in lines]
    assert not wrong, f"{len(wrong)} of {len(routes) * len(tokens)}:\n" + "\n".join(wrong[:40])
    assert not slow
    assert listener.connections == 0
    return len(routes) * len(tokens)


def test_every_route_refuses_every_forgery(desk, listener):
    real = Genuine(desk)
    tokens = attacks(real, listener)
    routes = [operation for operation in operations(desk) if operation.takes_bearer]
    assert {"GET /llm-keys", "GET /llm-keys/{provider}", "POST /introspect"} <= {str(route) for route in routes}
    assert len(tokens) > 400
    tried = try_all(desk, listener, routes, real, tokens)
    print(f"{len(tokens)} tokens on {len(routes)} routes: {tried} refused")


def test_a_forgery_is_inactive_when_asked_about(desk, listener):
    real = Genuine(desk)
    account = desk.cli_json("service-account", "add", "asker")
    with requests.Session() as http:
        http.auth = (account["client_id"], account["client_secret"])
        for name, token in attacks(real, listener).items():
            if len(token) > 15000:
                continue  # more than a form may have
            answer = http.post(f"{desk.url}/introspect", data={"token": token}, timeout=60)
            if "\t" in token:  # no such thing can be in a form of ours
                assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
                continue
            assert (answer.status_code, answer.text) == (200, '{"active":false}'), (name, answer.text)
            # Revoking one is no error, and revokes nothing.
            assert http.post(f"{desk.url}/revoke", data={"token": token}, timeout=60).status_code == 200, name
        assert http.post(f"{desk.url}/introspect", data={"token": real.token}, timeout=60).json()["active"] is True
    assert listener.connections == 0


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_other_algorithms_are_confused_as_little(new_desk, listener, algorithm):
    desk = new_desk(KEYDESK_TOKEN__ALGORITHM=algorithm).start()
    real = Genuine(desk)
    assert real.header["alg"] == algorithm
    tokens = dict(group for maker in (no_algorithm, confusion, signatures, malleable) for group in maker(real))
    tokens = {name: token for name, token in tokens.items() if token != real.token}
    routes = [operation for operation in operations(desk) if str(operation) == "GET /llm-keys"]
    try_all(desk, listener, routes, real, tokens)
    desk.stop()


def test_a_token_of_another_desk_is_refused(desk, new_desk, listener):
    """Another desk's key, our issuer's name: the key ring decides. And a desk that was made anew has other keys."""
    other = new_desk().start()
    tokens = {"of another desk": other.login("admin", PASSWORD, scope=SCOPES)}
    routes = [operation for operation in operations(desk) if operation.takes_bearer]
    try_all(desk, listener, routes, Genuine(desk), tokens)
    ours, theirs = (each.get("/.well-known/jwks.json").json()["keys"] for each in (desk, other))
    assert not {key["kid"] for key in ours} & {key["kid"] for key in theirs}
    other.stop()
