"""The numbers that a desk tells of itself, for tests that are about them."""

import contextlib
import re
import threading

import requests

from conftest import ROOT, free_port


class Gauges:
    """What Prometheus would see of `desk`, which has not been started yet."""

    def __init__(self, desk):
        desk.env["KEYDESK_METRICS__LISTEN"] = f"127.0.0.1:{free_port()}"
        self.url = f"http://{desk.env['KEYDESK_METRICS__LISTEN']}/metrics"

    def read(self):
        """Every series with its value."""
        lines = requests.get(self.url, timeout=30).text.splitlines()
        series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in series}

    def looks(self, cache):
        """How often what a request needed was not in memory."""
        return self.read()[f'keydesk_cache_lookups_total{{cache="{cache}",result="miss"}}']

    @contextlib.contextmanager
    def peaks(self, *names):
        """The highest value that each of these is seen to have until the end of the block."""
        over, seen = threading.Event(), dict.fromkeys(names, 0.0)

        def look():
            while not over.is_set():
                # The desk may be away.
                with contextlib.suppress(requests.ConnectionError):
                    page = self.read()
                    seen.update({name: max(seen[name], page[name]) for name in names})
                over.wait(0.05)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()


def bound(file):
    """How long the queue may be that is made in this file of the source."""
    return int(re.search(r"^const QUEUE: usize = (\d+);", (ROOT / "src" / file).read_text(), re.MULTILINE)[1])
