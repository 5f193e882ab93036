"""Whatever strangers send, the book and the log stay one entry a line, and short."""

import csv
import io
import json
import unicodedata

import pytest
import requests

UNRULY = {
    "a new line": "alice\r\n{\"action\":\"forged\"}\nlevel=INFO forged",
    "quotes": "\"}],\\\"",
    "an escape sequence": "\x1b[2J\x1b[31mred",
    "line separators": "a\u2028b\u2029c\u0085d",
    "a zero": "a\0b",
    "right to left": "\u202etxt.exe\u2066",
    "a formula": "=cmd|' /C calc'!A0",
    "a megabyte": "x" * (1 << 20),
    "not ASCII": "żółć 🗝",
}


def send(desk, text):
    """The text wherever a stranger can put one."""
    url = desk.url
    for form in (
        {"grant_type": "password", "username": text, "password": f"{text} and more of it"},
        {"grant_type": "client_credentials", "client_id": text, "client_secret": f"{text} and more of it"},
        {"grant_type": text, "scope": text},
        {"grant_type": "refresh_token", "refresh_token": f"{text} and more of it", "scope": text},
    ):
        assert requests.post(f"{url}/token", data=form, timeout=30).status_code in (400, 401, 413, 429, 431)
    header = text.replace("\r", "").replace("\n", "").replace("\0", "")[:1000].encode()
    for name in ("User-Agent", "X-Request-Id", "X-Service-Account", "X-Forwarded-For", "Referer", "Authorization"):
        # What HTTP itself forbids in a header is refused before it is anything.
        requests.get(f"{url}/llm-keys", headers={"X-API-Key": "nonsense", name: header}, timeout=30)
    requests.post(f"{url}/revoke", data={"token": text, "client_id": text}, timeout=30)


def lines_of(text):
    assert text.endswith("\n")
    return text[:-1].split("\n")


def unruly(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in "\u202e\u2066"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_sent_looks_like_an_entry(new_desk, log_format):
    desk = new_desk(KEYDESK_LOG__FORMAT=log_format).start()
    for text in UNRULY.values():
        send(desk, text)
    admin = desk.login()
    # Somebody with access may also try: in a filter, which stands in the book of an export.
    desk.run("audit", "export", "--principal", UNRULY["a new line"])
    desk.run("audit", "export", "--principal", UNRULY["a formula"])
    desk.get("/admin/audit-events", params={"principal": UNRULY["an escape sequence"]}, headers={"Authorization": f"Bearer {admin}"})
    assert desk.stop() == 0

    book = lines_of(desk.cli("audit", "export"))
    events = [json.loads(line) for line in book]
    assert len(events) > 50
    for line, event in zip(book, events):
        assert not unruly(line) and len(line) < 10_000, line[:300]
        assert event["action"] != "forged"
    table = desk.cli("audit", "export", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == len(lines_of(table)) - 1 > len(events)
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values()), row
    assert desk.cli_json("audit", "verify")["whole"]

    log = desk.log.read_text()
    for line in log.splitlines(keepends=True):
        assert line.endswith("\n") and not unruly(line[:-1]), line[:300]
        assert "forged" not in line[:60] and len(line) < 10_000, line[:300]
