"""Drives a server with wrk and measures what it does meanwhile: how fast it answers, and what that costs it.

wrk and the server share the machine. What the two together take is not all that is taken: `others` says which part of the
processor's time went elsewhere while it was measured, so that figures from a busy machine can be told from good ones.
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time

SCRIPT = pathlib.Path(__file__).with_name("requests.lua")
CORES = len(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    headers: tuple = ()
    method: str = "GET"
    body: str = ""

    def line(self):
        return "\t".join((self.method, self.path, self.body, *(f"{name}: {value}" for name, value in self.headers)))


@dataclasses.dataclass(frozen=True)
class Sample:
    """What came back. Latencies in milliseconds, `cpu` in microseconds of the server's per request, `resident` in MiB."""

    requests: int
    rate: float
    p50: float
    p99: float
    refused: int
    broken: int
    cpu: float
    resident: float
    others: float


def start(url, requests, connections, seconds, pause=None):
    """Starts wrk. `requests` are sent in turn; with `pause`, each connection rests for up to so many milliseconds."""
    file = tempfile.NamedTemporaryFile("w", suffix=".requests")
    file.writelines(f"{request.line()}\n" for request in requests)
    file.flush()
    # With fewer threads than cores it is wrk that is measured as soon as the server is as cheap as the bare one.
    threads = min(CORES, connections, 8)
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", SCRIPT, url, "--", file.name]
    process = subprocess.Popen([*command, str(pause)] if pause else command, stdout=subprocess.PIPE, text=True)
    process.file = file  # until it has ended
    return process


def finish(process):
    """The line with which wrk ends."""
    text, _ = process.communicate()
    process.file.close()
    if process.returncode != 0:
        raise RuntimeError(f"wrk failed:\n{text}")
    return json.loads(text.strip().splitlines()[-1])


def drive(server, requests, connections, seconds, pause=None):
    """A sample of `server` under the load of so many connections that all ask as fast as they are answered, or pause."""
    busy_before, own_before, cpu_before = busy(), own(), server.cpu()
    process = start(server.url, requests, connections, seconds, pause)
    resident = 0
    while process.poll() is None:
        resident = max(resident, server.resident())
        time.sleep(0.1)
    # In the opposite order, so that what is ours is never more than what there was.
    work = server.cpu() - cpu_before
    result = finish(process)
    load, everything = own() - own_before, busy() - busy_before
    count, seconds = max(1, result["requests"]), result["micros"] / 1e6
    return Sample(
        requests=count,
        rate=count / seconds,
        p50=result["p50"] / 1000,
        p99=result["p99"] / 1000,
        refused=result["refused"],
        broken=result["broken"],
        cpu=work / count * 1e6,
        resident=resident,
        others=max(0.0, everything - load - work) / (seconds * CORES),
    )


def busy():
    """How long the machine's processors have worked, in seconds; with what the hypervisor gave to other machines."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, interrupts, soft_interrupts, stolen = map(int, fields)
    return (user + nice + system + interrupts + soft_interrupts + stolen) / TICK


def own():
    """How long we and our ended children have worked."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total
