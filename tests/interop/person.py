"""Somebody with the client's commands and a home of their own, and what may stand between them and a desk."""

import http.server
import os
import pathlib
import subprocess
import threading

import requests


class Person:
    """A user of a machine. What they keep lies below the desk's directory, where secrets are searched for."""

    def __init__(self, desk, home):
        self.desk, self.home = desk, pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}

    def start(self, *arguments, env=None, prefix=(), **more):
        return subprocess.Popen(
            [*prefix, self.desk.binary, *arguments], cwd=self.home, env={**self.env, **(env or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
        )

    def run(self, *arguments, stdin="", **more):
        process = self.start(*arguments, **more)
        out, err = process.communicate(stdin, timeout=60)
        with (self.home / "client.log").open("a") as log:
            log.write(err)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def must(self, *arguments, **more):
        done = self.run(*arguments, **more)
        assert done.returncode == 0, f"keydesk {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def log_in(self, name, password, url=None, *more, **options):
        arguments = ("login", url or self.desk.url, "--username", name, "--password-stdin", *more)
        return self.must(*arguments, stdin=password + "\n", **options)

    @property
    def state(self):
        return self.home / ".local" / "state" / "keydesk"


class Listener:
    """An HTTP server on a port of its own, answered by `handler`, until it is closed."""

    def __init__(self, handler):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Between(Listener):
    """Forwards HTTP to a desk, and can change what comes back: `short_lived` tokens are too old at once, and `lose` is
    called with each answer of the token endpoint and says whether it gets lost."""

    def __init__(self, url):
        between = self
        self.short_lived, self.lose, self.requests = False, None, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                answer = requests.request(
                    self.command, url + self.path, data=body, headers=headers, timeout=30, allow_redirects=False)
                between.requests.append((self.command, self.path, answer.status_code))
                content = answer.content
                if self.path == "/token":
                    if between.short_lived:
                        content = content.replace(b'"expires_in":600', b'"expires_in":0')
                    if between.lose and between.lose(answer):
                        self.close_connection = True
                        return
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = forward

            def log_message(self, *_):
                pass

        super().__init__(Handler)
