"""Floods of HTTP/2 frames: the desk says goodbye to who sends them, and neither its processor nor its memory notices much."""

import contextlib
import pathlib
import socket
import ssl
import time

import h2.config
import h2.connection
import h2.errors
import hpack
import hyperframe.frame as frames
import pytest

from test_edge_tls import TlsDesk

MEGABYTE = 1 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def tls(new_desk):
    running = TlsDesk(new_desk, RUST_LOG="warn").start()
    yield running
    assert running.desk.stop() == 0


class Line:
    """A TLS connection that speaks h2, and frames written on it."""

    def __init__(self, tls):
        context = tls.context()
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", tls.desk.port), 10)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.encoder = hpack.Encoder()
        self.heard = b""
        self.socket.settimeout(0.5)
        self.over = False

    def __enter__(self):
        self.send(PREFACE, frames.SettingsFrame(0))
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *pieces):
        """Writes until the desk has had enough; what it says meanwhile is kept."""
        data = b"".join(piece if isinstance(piece, bytes) else piece.serialize() for piece in pieces)
        view = memoryview(data)
        while view and not self.over:
            try:
                view = view[self.socket.send(view[:65536]):]
            except TimeoutError:
                self.listen(0.2)
            except (OSError, ssl.SSLError):
                self.listen(0.2)
                self.over = True
        return not self.over

    def listen(self, seconds):
        """Reads for so long, or until the connection is closed; True if it was."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self.socket.settimeout(max(0.05, end - time.monotonic()))
                data = self.socket.recv(65536)
            except TimeoutError:
                break
            except (OSError, ssl.SSLError):
                data = b""
            if not data:
                self.over = True
                return True
            self.heard += data
        self.socket.settimeout(0.5)
        return False

    def said(self, kind):
        """The frames of a kind among what was heard."""
        found, rest = [], memoryview(self.heard)
        while len(rest) >= 9:
            frame, length = frames.Frame.parse_frame_header(rest[:9])
            if len(rest) < 9 + length:
                break
            frame.parse_body(rest[9:9 + length])
            if isinstance(frame, kind):
                found.append(frame)
            rest = rest[9 + length:]
        return found

    def headers(self, stream, *more, path="/health", end=True, flags=("END_HEADERS",)):
        block = self.encoder.encode([
            (":method", "GET" if end else "POST"), (":path", path), (":scheme", "https"), (":authority", "localhost"), *more])
        frame = frames.HeadersFrame(stream, block)
        for flag in flags:
            frame.flags.add(flag)
        if end:
            frame.flags.add("END_STREAM")
        return frame


def resources(desk):
    process = pathlib.Path(f"/proc/{desk.process.pid}")
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100, int((process / "statm").read_text().split()[1]) * 4096


def rapid_reset(line):
    for stream in range(1, 20_001, 2):
        if not line.send(line.headers(stream), frames.RstStreamFrame(stream, error_code=8)):
            break


def continuation(line):
    line.send(line.headers(1, flags=()))
    for _ in range(20_000):
        if not line.send(frames.ContinuationFrame(1, line.encoder.encode([("x-filler", "a" * 200)]))):
            break


def empty_data(line):
    line.send(line.headers(1, ("content-type", "application/x-www-form-urlencoded"), path="/token", end=False))
    for _ in range(200):
        if not line.send(*[frames.DataFrame(1, b"")] * 100):
            break


def settings(line):
    for _ in range(200):
        if not line.send(*[frames.SettingsFrame(0, settings={4: 65_535})] * 100):
            break


def pings(line):
    for _ in range(200):
        if not line.send(*[frames.PingFrame(0, b"12345678")] * 100):
            break


def hpack_bomb(line):
    line.send(line.headers(1, ("x-bomb", "a" * 4000)))
    # One byte each for four kilobytes.
    bomb = line.encoder.encode([("x-bomb", "a" * 4000)]) * 15_000
    first = line.headers(3, flags=())
    first.data += bomb[:16_000]
    line.send(first)
    last = frames.ContinuationFrame(3, b"")
    last.flags.add("END_HEADERS")
    line.send(last)


def many_streams(line):
    for stream in range(1, 20_001, 2):
        if not line.send(line.headers(stream, ("content-type", "application/x-www-form-urlencoded"), path="/token", end=False)):
            break


def window_updates(line):
    for _ in range(200):
        if not line.send(*[frames.WindowUpdateFrame(0, window_increment=1)] * 100):
            break


def priorities(line):
    for stream in range(1, 20_001, 2):
        if not line.send(frames.PriorityFrame(stream, depends_on=0, stream_weight=1)):
            break


FLOODS = [rapid_reset, continuation, empty_data, settings, pings, hpack_bomb, many_streams, window_updates, priorities]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.__name__)
def test_flood(tls, flood):
    cpu, memory = resources(tls.desk)
    begun = time.monotonic()
    with Line(tls) as line:
        flood(line)
        closed = line.listen(2)
        said = line.said(frames.GoAwayFrame)
        if flood in (rapid_reset, continuation):
            assert closed and (said and said[-1].error_code != 0 or line.over), "the flood is not stopped"
        if flood is hpack_bomb:
            assert said or line.said(frames.HeadersFrame)
        refused = line.said(frames.RstStreamFrame)
        if flood is many_streams:
            assert said or any(frame.error_code == h2.errors.ErrorCodes.REFUSED_STREAM for frame in refused)
    spent, grown = resources(tls.desk)
    assert spent - cpu < max(1, time.monotonic() - begun), "less than one processor"
    assert grown - memory < 50 * MEGABYTE
    with Line(tls) as line:
        line.send(line.headers(1))
        line.listen(1)
        assert line.said(frames.DataFrame), "an honest client is served"


@pytest.mark.parametrize("case", ["shorter", "longer"])
def test_a_body_that_is_not_as_long_as_it_says(tls, case):
    with Line(tls) as line:
        line.send(line.headers(
            1, ("content-type", "application/x-www-form-urlencoded"), ("content-length", "5"), path="/token", end=False))
        data = frames.DataFrame(1, b"a=b" if case == "shorter" else b"a=b&c=d&e=f")
        data.flags.add("END_STREAM")
        line.send(data)
        line.listen(1)
        resets = line.said(frames.RstStreamFrame) + line.said(frames.GoAwayFrame)
        assert resets or b"invalid_request" in line.heard


def test_what_headers_may_not_be(tls):
    for more in (("connection", "close"), ("transfer-encoding", "chunked"), ("X-Capital", "1"), (":path", "/token"),
                 ("x-break", "a\r\nb"), ("te", "gzip")):
        with Line(tls) as line:
            line.send(line.headers(1, more))
            line.listen(1)
            assert not line.said(frames.DataFrame) or b"400" in line.heard or b"problem" in line.heard, more
            assert b"healthy" not in line.heard, more
    with Line(tls) as line:
        line.send(line.headers(1, ("host", "evil.example")))
        line.listen(1)
        assert b"healthy" not in line.heard and b'"status":400' in line.heard


def test_an_idle_connection_and_one_that_never_speaks_end_in_time(tls):
    with Line(tls) as line:
        begun = time.monotonic()
        assert line.listen(15), "the first request has ten seconds"
        assert 9 < time.monotonic() - begun < 13


class Hoarder(Line):
    """Opens no window: its answers are made, and never taken. It answers pings, so that it looks alive."""

    def __enter__(self):
        self.send(PREFACE, frames.SettingsFrame(0, settings={frames.SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
        self.send(*(self.headers(stream) for stream in range(1, 41, 2)))
        assert not self.listen(0.3) and len(self.said(frames.HeadersFrame)) == 20 and not self.said(frames.DataFrame)
        self.heard = b""
        return self

    def stays(self, seconds):
        """Whether it is still there after so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over:
            self.listen(1)
            for ping in self.said(frames.PingFrame):
                if "ACK" not in ping.flags:
                    pong = frames.PingFrame(0, ping.opaque_data)
                    pong.flags.add("ACK")
                    self.send(pong)
            self.heard = b""
        return not self.over


def test_who_never_takes_an_answer_makes_room_at_once_and_leaves_in_time(new_desk):
    tls = TlsDesk(new_desk, RUST_LOG="warn", KEYDESK_LIMITS__CONNECTIONS="4").start()
    with contextlib.ExitStack() as crowd:
        hoarders = [crowd.enter_context(Hoarder(tls)) for _ in range(4)]
        begun = time.monotonic()
        for _ in range(20):
            with Line(tls) as line:
                line.send(line.headers(1))
                line.listen(0.3)
                assert line.said(frames.DataFrame), "an honest client is served while all places are hoarded"
        assert time.monotonic() - begun < 15
        assert any(hoarder.listen(0.1) for hoarder in hoarders)
    with Hoarder(tls) as hoarder:
        assert hoarder.stays(25), "it may be slow"
        assert not hoarder.stays(10), "not for ever"
    assert tls.desk.stop() == 0
