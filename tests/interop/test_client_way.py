"""The way between `keydesk get` and a desk: who proves what, where a credential must not go, and how long to wait."""

import http.server

import pytest

from person import Listener, Person
from test_edge_tls import TlsDesk

KEY = "sk-proj-0123456789abcdef"


class Stranger(Listener):
    """Answers as it is told, one answer after the other, and remembers what it was shown."""

    def __init__(self, *answers):
        stranger = self
        self.answers, self.shown = list(answers), []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                stranger.shown.append((self.path, self.headers.get("Authorization")))
                status, headers, body = stranger.answers.pop(0) if len(stranger.answers) > 1 else stranger.answers[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_CONNECT = do_GET

            def log_message(self, *_):
                pass

        super().__init__(Handler)


GIVEN = 200, {}, (
    f'{{"provider":"openai","project":"default","key":"{KEY}","version":1,"mode":"static","expires_at":null,'
    '"revocable":false,"env":"OPENAI_API_KEY"}').encode()


@pytest.fixture
def stranger():
    made = []

    def make(*answers):
        made.append(Stranger(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def person(desk):
    return Person(desk, desk.home / "person")


def get(person, url, **env):
    return person.run("get", "openai", env={"KEYDESK_URL": url, "KEYDESK_API_KEY": "svc-of-nobody-0123456789", **env})


def test_a_desk_proves_that_it_is_one(new_desk):
    tls = TlsDesk(new_desk).start()
    person = Person(tls.desk, tls.desk.home / "person")
    env = {"KEYDESK_URL": tls.url, "KEYDESK_API_KEY": tls.desk.service_api_key}
    done = person.run("get", "openai", env=env)
    assert (done.returncode, done.stdout) == (1, "") and "KEYDESK_CA_FILE" in done.stderr, done
    env["KEYDESK_CA_FILE"] = tls.ca
    assert person.must("get", "openai", "--raw", env=env) == tls.desk.keys["OPENAI_API_KEY"]
    done = person.run("get", "openai", env={**env, "KEYDESK_CA_FILE": tls.key})
    assert (done.returncode, done.stdout) == (1, "") and "CA file" in done.stderr, done
    assert tls.desk.stop() == 0


def test_redirects_are_not_followed(person, stranger):
    end = stranger(GIVEN)
    done = get(person, stranger((302, {"Location": f"{end.url}/llm-keys/openai"}, b"")).url)
    assert (done.returncode, done.stdout, end.shown) == (1, "", []), done


def test_a_busy_desk_is_waited_for_as_long_as_it_says_and_not_for_ever(person, stranger):
    for status in (429, 503):
        waited = stranger((status, {"Retry-After": "1"}, b"{}"), GIVEN)
        done = get(person, waited.url)
        assert (done.returncode, done.stdout, len(waited.shown)) == (0, KEY + "\n", 2), done
        for often, after in ((1, "3600"), (6, "1"), (10, "0")):
            never = stranger((status, {"Retry-After": after}, b"{}"))
            done = get(person, never.url)
            assert (done.returncode, done.stdout, len(never.shown)) == (5, "", often), done


def test_proxies_are_for_the_way_out_and_not_for_this_machine(person, stranger):
    proxy = stranger((502, {}, b""))
    here = stranger(GIVEN)
    through = {name: proxy.url for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY")}
    assert get(person, here.url, **through).stdout == KEY + "\n"
    assert proxy.shown == []
    done = get(person, "https://keydesk.example.com", **through)
    assert (done.returncode, done.stdout) == (5, ""), done
    assert proxy.shown == [("keydesk.example.com:443", None)], "the proxy learns where to, and no credential"


def test_what_is_no_desk_is_told(person, stranger):
    for answer in ((200, {}, b"<html>"), (200, {}, b""), (200, {}, b"{}"), (404, {}, b"<html>"), (418, {}, b""), (200, {}, b"x" * (5 << 20))):
        done = get(person, stranger(answer).url)
        assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
        assert "svc-of-nobody" not in done.stderr


def test_a_url_that_leads_past_the_desk_is_no_refusal(desk, person, stranger):
    env = {"KEYDESK_URL": desk.url, "KEYDESK_API_KEY": desk.service_api_key}
    assert person.run("get", "nobody", env=env).returncode == 4
    env["KEYDESK_URL"] += "/keys"
    for command in (["get", "openai"], ["env"], ["whoami"]):
        done = person.run(*command, env=env)
        assert (done.returncode, done.stdout) == (1, "") and "does the URL name the desk itself?" in done.stderr, done
    done = person.run("login", env["KEYDESK_URL"], "--username", "admin", "--password-stdin", stdin="a password")
    assert done.returncode == 1 and "does the URL name the desk itself?" in done.stderr, done
    assert get(person, stranger((403, {}, b"<html>")).url).returncode == 1


def test_what_no_desk_gives_is_not_passed_on(person, stranger):
    status, headers, body = GIVEN
    odd = [b"", b"short", KEY.encode() + b" x", KEY.encode() + b"\\n", "sk-proj-é123456789abcdef".encode(), b"k" * 4097]
    bodies = [body.replace(KEY.encode(), key) for key in odd]
    for other in ((b'"openai"', b'"anthropic"'), (b'"default"', b'"elsewhere"')):
        bodies.append(body.replace(*other))
    for body in bodies:
        done = get(person, stranger((status, headers, body)).url, KEYDESK_PROJECT="default")
        assert (done.returncode, done.stdout) == (1, "") and "not what a desk gives" in done.stderr, done
    for key in odd:
        env = {"KEYDESK_URL": stranger((status, headers, b'{"openai":"%s"}' % key)).url, "KEYDESK_API_KEY": "svc-of-nobody-0123456789"}
        done = person.run("env", env=env)
        assert (done.returncode, done.stdout) == (1, "") and "not what a desk gives" in done.stderr, done
