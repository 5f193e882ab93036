"""The machine: what it is, and how long its disk takes to make a few pages durable."""

import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

# What one event adds to SQLite's write-ahead log: eight pages, each with a header of its own.
COMMIT_BYTES = 8 * (4096 + 24)


class Disk:
    """How long one commit's bytes take to become durable: at the end of a file that grows with them, and over bytes that are
    there already, as a write-ahead log is written once it has been written through. Both in turns, so that they meet the same
    moments; `measure` can be called several times around what it is compared with."""

    ALLOCATED = 256

    def __init__(self, folder):
        self.block, self.turn = os.urandom(COMMIT_BYTES), 0
        self.growing, self.allocated = (tempfile.TemporaryFile(dir=folder) for _ in range(2))
        self.allocated.write(self.block * self.ALLOCATED)
        self.allocated.flush()
        os.fsync(self.allocated.fileno())
        self.took = {"growing": [], "allocated": []}

    def measure(self, seconds):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.write("growing", self.growing, self.turn)
            self.write("allocated", self.allocated, self.turn % self.ALLOCATED)
            self.turn += 1

    def write(self, what, file, place):
        begun = time.perf_counter()
        os.pwrite(file.fileno(), self.block, place * COMMIT_BYTES)
        os.fdatasync(file.fileno())
        self.took[what].append(time.perf_counter() - begun)

    def close(self):
        """Medians, in milliseconds."""
        self.growing.close()
        self.allocated.close()
        return {what: statistics.median(took) * 1000 for what, took in self.took.items()}


def describe(folder):
    """What to know of the machine to judge its figures, as pairs."""
    return [
        ("processor", f"{processor()}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"),
        # Without what the distribution or the host appends: it names them, and nothing else.
        ("kernel", f"{platform.system()} {platform.release().split('-')[0]}"),
        ("file system", file_system(folder)),
        ("compiler", said("rustc", "--version")),
        ("load generator", (said("wrk", "--version") or "wrk").split(" [")[0]),
        ("commit", commit()),
        ("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")),
    ]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def file_system(folder):
    """The type of the file system that holds `folder`, and its options that matter here."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    path = pathlib.Path(folder).resolve()
    inside = [mount for mount in mounts if path.is_relative_to(mount[1])]
    kind, options = max(inside, key=lambda mount: len(mount[1]))[2:4]
    matter = [option for option in options.split(",") if option.startswith(("data=", "nobarrier", "barrier"))]
    return ", ".join([kind, *matter])


def commit():
    changed = said("git", "status", "--porcelain", "--untracked-files=no")
    return said("git", "rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def said(*command):
    """The first line that a command prints; empty if it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0]
