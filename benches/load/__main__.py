"""A run of `scripts/bench`, which has built what is measured here and says how to call it."""

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time

import figures
import machine
import page
import rounds
import scale
import servers


class Progress:
    """Says what was measured, and how far it is. On a terminal a measurement takes the place of the one before."""

    def __init__(self, steps):
        self.steps, self.done, self.begun = steps, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self, text):
        self.done += 1
        took = time.monotonic() - self.begun
        left = int(took / self.done * max(0, self.steps - self.done))
        line = f"[{self.done}/{self.steps}, {left // 60} min {left % 60} s left] {text}"
        end = "" if self.terminal else "\n"
        print(f"\r\033[K{line}" if self.terminal else line, end=end, file=sys.stderr, flush=True)

    def say(self, text):
        print(f"\r\033[K{text}" if self.terminal else text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def folder_in(parent):
    """A folder that is gone afterwards, whatever happens."""
    pathlib.Path(parent).mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--desk", type=os.path.abspath, required=True)
    parser.add_argument("--bare", type=os.path.abspath, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--form", choices=["quick", "usual", "full"], default="usual")
    return parser.parse_args()


def main():
    given = arguments()
    # A thousand connections, on both sides.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    quick, full = given.form == "quick", given.form == "full"
    seconds, times, floods = (1, 5, 2) if quick else (5, 5, 5)
    progress = Progress(times * rounds.STEPS + floods * 2 + (scale.steps() if full else 0))
    with folder_in(given.folder) as folder:
        description = machine.describe(folder)
        desk = servers.Desk.prepare(given.desk, folder / "desk")
        with desk.start():
            body = desk.must(desk.by_api_key)
        with servers.Bare().start(given.bare, folder, body) as bare:
            measured = [rounds.run(desk, bare, folder, seconds, progress) for _ in range(times)]
            flooded = [rounds.flood(desk, folder, max(2, seconds), progress) for _ in range(floods)]
            starts, idle = rounds.starts(desk, folder, 20)
            curves = list(scale.curves(desk, bare, folder, progress)) if full else []
    text = page.summary(measured, flooded, figures.rows(measured, flooded, starts, idle), description, seconds)
    progress.say("")
    print("\n\n".join([text, *(curve.text() for curve in curves)]))
    if not quick:
        page.write("figures", text)
    if full:
        page.write("scale", "\n\n".join(curve.text() for curve in curves))
        for curve in curves:
            curve.draw()


try:
    main()
except RuntimeError as error:
    sys.exit(f"\n{error}")
