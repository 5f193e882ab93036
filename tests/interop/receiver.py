"""A webhook receiver as somebody else would write it: plain http.server, and the published `standardwebhooks` library."""

import http.server
import json
import ssl
import threading
import time


class Message:
    """What arrived."""

    def __init__(self, handler, body):
        self.path, self.body, self.at = handler.path, body, time.monotonic()
        self.headers = {name.lower(): value for name, value in handler.headers.items()}

    @property
    def id(self):
        return self.headers["webhook-id"]

    def json(self):
        return json.loads(self.body)

    @property
    def rule(self):
        return self.json().get("data", {}).get("rule")


class Receiver:
    """Takes messages at `url`. `answer(handler)` writes the response; without it, 204."""

    def __init__(self, answer=None, certificate=None, port=0):
        receiver, self.messages, self.answer = self, [], answer

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                receiver.messages.append(Message(self, body))
                if receiver.answer:
                    receiver.answer(self)
                else:
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.port = self.server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def of(self, rule):
        return [message for message in self.messages if message.rule == rule]


def status(code, body=b"", **headers):
    """Answers like this every time."""

    def answer(handler):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer
