"""Load test with many concurrent visitors: `python -m tools.load_test` starts an app and runs against it.

Each visitor is a gradio_client session. It requests a text, reads its queue position while it waits, receives the text
and requests the next one until the time is up; requests still waiting then are allowed to finish. The report counts
finished runs, reported positions and errors, and compares the server's memory after the first minute and at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120  # for the server to start
TIMEOUT_SECONDS = 60  # per response: thirty clients share this process and the two cores
LAST_SECONDS = 300  # for requests that still wait when the time is up
MOST_GROWTH = 0.10  # of memory, from the end of the first minute to the end
TEXT = "Mia found a [MASK:6]."


class Visitors:
    """The visitors' threads and the outcome of their calls."""

    def __init__(self, url: str, number: int, seconds: float) -> None:
        self.url, self.number = url, number
        self.until = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.worst_place = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run all visitors at once, to the end."""
        threads = [threading.Thread(target=self._visit, args=(n,), daemon=True) for n in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.until + LAST_SECONDS - time.monotonic()))
        self.counts["visitors left waiting"] = sum(thread.is_alive() for thread in threads)

    def _visit(self, number: int) -> None:
        from gradio_client import Client

        try:
            client = Client(self.url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": TIMEOUT_SECONDS})
            self._count("sessions opened")
            while time.monotonic() < self.until:
                self._ask(client, number)
        except Exception as error:
            with self._lock:
                self.errors.append(f"{type(error).__name__}: {error}")

    def _ask(self, client: Any, number: int) -> None:
        """Request one text and read the queue position while it waits."""
        job = client.submit(text=TEXT, length=24, steps=16, seed=number, api_name="/unmask")
        told = False
        while not job.done():
            place = job.status().rank
            if place is not None:
                told = True
                self.worst_place = max(self.worst_place, place + 1)
            time.sleep(0.2)
        text = job.result()[2]
        self._count("runs that finished" if text and "[MASK" not in text else "runs without a text")
        self._count("runs that were told their place" if told else "runs that got their turn at once")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def serve(port: int) -> subprocess.Popen[str]:
    """Start the app as a user would, on 127.0.0.1; returns when it listens. Raises RuntimeError if it does not."""
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app" / "main.py"), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    timer = threading.Timer(START_SECONDS, server.kill)
    timer.start()
    for line in server.stdout:
        if "DiffuApriel is at" in line:
            timer.cancel()
            threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would stop it
            return server
        print(line, end="")
    raise RuntimeError("the app did not start; its last output is above")


def watch_memory(pid: int, began: float, seen: list[tuple[float, int]], over: threading.Event) -> None:
    """Record (seconds since the start, resident bytes of the server) once per second."""
    import psutil

    process = psutil.Process(pid)
    while not over.wait(1.0):
        seen.append((time.monotonic() - began, process.memory_info().rss))


def main(arguments: list[str] | None = None) -> int:
    """Run the test and print the counts. Returns 1 if a visitor met an error or memory grew too much."""
    parser = argparse.ArgumentParser(description="Many concurrent visitors against an app that this program starts.")
    parser.add_argument("--visitors", type=int, default=30, help="sessions at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="duration (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7890, help="port of the app under load (default: %(default)s)")
    options = parser.parse_args(arguments)
    server = serve(options.port)
    seen: list[tuple[float, int]] = []
    over = threading.Event()
    try:
        began = time.monotonic()
        watcher = threading.Thread(target=watch_memory, args=(server.pid, began, seen, over), daemon=True)
        watcher.start()
        visitors = Visitors(f"http://127.0.0.1:{options.port}/", options.visitors, options.seconds)
        visitors.run()
        took = time.monotonic() - began
        alive = server.poll() is None
    finally:
        over.set()
        server.terminate()
        server.wait()
    return report(visitors, seen, took, alive)


def report(visitors: Visitors, seen: list[tuple[float, int]], took: float, alive: bool) -> int:
    """Print the counts; returns 0 if all went well."""
    half = min(60.0, took / 2)
    first = next((size for second, size in seen if second >= half), 0)
    last = seen[-1][1] if seen else 0
    growth = last / first - 1 if first else float("nan")
    print(f"{visitors.number} visitors, {took:.0f} s, the app {'still serves' if alive else 'has died'}")
    for what, number in sorted(visitors.counts.items()):
        print(f"  {number:5,} {what}")
    print(f"  {len(visitors.errors):5,} errors")
    print(f"  place in the queue: up to {visitors.worst_place}")
    print(f"  memory: {first / 1e6:,.0f} MB after {half:.0f} s, {last / 1e6:,.0f} MB at the end ({growth:+.1%})")
    for error, number in Counter(visitors.errors).most_common(5):
        print(f"  {number} × {error[:300]}", file=sys.stderr)
    bad = visitors.errors or visitors.counts["visitors left waiting"] or visitors.counts["runs without a text"]
    return int(bool(bad) or not alive or not growth <= MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
