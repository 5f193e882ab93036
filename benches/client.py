#!/usr/bin/env python3
"""How long `keydesk get openai --raw` takes as a whole process, next to curl that asks the same.

    cargo build --release
    python3 benches/client.py [target/release/keydesk] [ROUNDS]

A desk is started in a directory of its own, somebody logs in, and both programs take turns, so that whatever else the
machine does falls on both. Medians and the slowest of a hundred, in milliseconds; the session's token is warm.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PASSWORD = "correct horse battery staple"
KEY = "sk-proj-0123456789abcdef"


def milliseconds(command, env):
    begun = time.perf_counter()
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = (time.perf_counter() - begun) * 1000
    assert KEY in done.stdout, done
    return took


def main(binary="target/release/keydesk", rounds="300", port="21090"):
    binary, url = str(pathlib.Path(binary).resolve()), f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.environ["PATH"], "HOME": home}
        given = {"KEYDESK_ADMIN_PASSWORD": PASSWORD, "OPENAI_API_KEY": KEY, "SERVICE_API_KEY": "svc-0123456789abcdef"}
        desk = subprocess.Popen(
            [binary, "serve", "--listen", f"127.0.0.1:{port}"], cwd=home,
            env={**env, **given, "KEYDESK_LIMITS__KEYS": "off"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            login = [binary, "login", url, "--username", "admin", "--password-stdin"]
            for _ in range(100):
                if subprocess.run(login, env=env, input=PASSWORD, text=True, capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            get = [binary, "get", "openai", "--raw"]
            curl = ["curl", "-sS", f"{url}/llm-keys/openai", "-H", f"X-API-Key: {given['SERVICE_API_KEY']}"]
            took = {"keydesk get": [], "curl": []}
            for _ in range(int(rounds)):
                took["keydesk get"].append(milliseconds(get, env))
                took["curl"].append(milliseconds(curl, env))
            for name, times in took.items():
                print(f"{name:12} median {statistics.median(times):6.1f} ms   p99 {statistics.quantiles(times, n=100)[98]:6.1f} ms")
        finally:
            desk.terminate()
            desk.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
