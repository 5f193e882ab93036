"""Every secret that took part in any test, and the search for them in everything that any desk has written.

Secrets are noticed where they pass: what is sent as a password or comes back as a token is remembered without the tests'
doing anything. What a test makes up itself carries the word CANARY, and our own tokens are recognised by their form, so
that those are found as well that nobody remembered.
"""

import base64
import contextlib
import json
import os
import re
import subprocess
import tempfile
import urllib.parse

KNOWN = {}  # secret → what it is
DESKS = []
SHORTEST = 12  # shorter ones are in every text

FIELDS = {"password", "old_password", "new_password", "client_secret", "access_token", "refresh_token", "api_key", "token", "key"}
# Files that hold a secret because that is what they are for.
MEANT_TO = {"kek", "admin-password"}

OURS = re.compile(r"kd_[a-z]{2}_[0-9A-Za-z]{20,}")
JWT = re.compile(r"eyJ[\w-]{10,}\.eyJ[\w-]{20,}\.([\w-]{40,})")


def remember(secret, what):
    """Of a signed token its signature: the rest says nothing that the book may not say."""
    token = JWT.fullmatch(secret)
    if token:
        secret = token.group(1)
    if len(secret) >= SHORTEST:
        KNOWN.setdefault(secret, what)


def remember_fields(value, what):
    """The secrets in a form or a JSON document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and name in FIELDS and (name != "token" or OURS.match(inner) or JWT.match(inner)):
                remember(inner, f"{name} of {what}")
            else:
                remember_fields(inner, what)
    elif isinstance(value, list):
        for inner in value:
            remember_fields(inner, what)


def remember_body(body, what):
    """The secrets in the body of a request or an answer, whichever form it has."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if not isinstance(text, str) or len(text) > 1 << 20:
        return
    try:
        remember_fields(json.loads(text), what)
    except ValueError:
        remember_fields(dict(urllib.parse.parse_qsl(text)), what)


def watch(session_class, errors):
    """Looks at everything that goes through `requests`; bodies of refusals are set aside, to be searched as well."""
    send = session_class.send

    def watched(self, request, **options):
        remember_body(request.body, f"{request.method} {request.path_url.partition('?')[0]}")
        answer = send(self, request, **options)
        if not options.get("stream"):
            saw(request.method, request.path_url.partition("?")[0], answer.status_code, answer.content, errors)
        return answer

    session_class.send = watched


def saw(method, path, status, body, errors):
    remember_body(body, f"the answer to {method} {path}")
    if status >= 400 or path.startswith(("/metrics", "/admin/audit-events", "/health")):
        with errors.open("ab") as file:
            file.write(f"{method} {status}\n".encode() + body + b"\n")


def forms(secret):
    """The ways in which a secret could lie around: as it is, in hex, escaped for a URL or JSON, as a list of bytes, in base64
    at any offset (so also inside something that was encoded as a whole, such as `user:password`)."""
    raw = secret if isinstance(secret, bytes) else secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    found.add(", ".join(str(byte) for byte in raw).encode())  # a byte vector's debug output
    if isinstance(secret, str):
        found.add(secret.encode("utf-16-le"))
        quoted = (urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret))
        found |= {text.encode() for text in quoted}
        found |= {json.dumps(secret)[1:-1].encode(), json.dumps(secret, ensure_ascii=False)[1:-1].encode()}
    return found | in_base64(raw)


def in_base64(raw):
    found = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            text = encode(b"\0" * offset + raw)
            # The first and the last characters depend on the neighbours as well.
            first, last = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
            found.add(text[first:last])
    return found


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name.split(".")[0] not in MEANT_TO]


def patterns(known):
    """Form → whose it is. grep reads lines, so a form with a line break in it is left out; there is none without as well."""
    wanted = {form: what for secret, what in known.items() for form in forms(secret) if b"\n" not in form and form}
    # Of what nobody remembered.
    wanted |= {form: "a key made up by a test" for form in forms("CANARY")}
    wanted |= {form: "a token of ours" for kind in ("rt", "ak", "cs") for form in forms(f"kd_{kind}_")
               if not form.startswith(b"kd_")}
    return wanted


def grep(places, *arguments):
    done = subprocess.run(
        ["xargs", "-0", "-r", "grep", "-aoH", "--null", *arguments], input="\0".join(map(str, places)).encode(),
        capture_output=True, env={**os.environ, "LC_ALL": "C"})
    # 123 is what xargs makes of grep's 1, nothing found, but of an error too.
    assert done.returncode in (0, 123) and not done.stderr, done.stderr
    for line in done.stdout.splitlines():
        name, _, match = line.partition(b"\0")
        yield name.decode(), match


def is_credential(text):
    """A checkpoint of the book is signed like a token, and is there to be read; an access token says that it is one."""
    if not text.startswith(b"eyJ"):
        return True
    header = text.partition(b".")[0]
    with contextlib.suppress(ValueError):
        return json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))).get("typ") == "at+jwt"
    return True


def search(places, known):
    """Which secret is in which of the files."""
    if not places:
        return []
    wanted = patterns(known)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(wanted))
        file.flush()
        found = [(name, wanted.get(match, "?")) for name, match in grep(places, "-F", "-f", file.name)]
    shapes = r"kd_[a-z]{2}_[0-9A-Za-z]{20,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{40,}"
    found += [(name, "a token by its form") for name, match in grep(places, "-E", shapes) if is_credential(match)]
    return sorted({f"{what} in {os.sep.join(name.split(os.sep)[-4:])}" for name, what in found})


def search_everything(errors):
    """All that all desks have written, for all that they must not have."""
    places = [errors] if errors.exists() else []
    for desk in DESKS:
        places += desk.stored()
        for folder in (desk.logs, desk.home / "kept"):
            places += files(folder) if folder.is_dir() else []
        for kek in desk.home.glob("*/kek*"):
            text = kek.read_text().strip()
            KNOWN.setdefault(text, "a key-encryption key")
            KNOWN.setdefault(base64.b64decode(text), "a key-encryption key, decoded")
    return search(places, KNOWN), places
