"""Load test with many concurrent visitors: `python -m tools.load_test` starts an app and runs against it.

With --stories each visitor asks for one story at the same moment: of an app whose runs share passes, then of one that
serves one run after the other (--batch 1), then of an older version, if --older names one. The report compares how long
they waited, and the texts of the first two.

Each visitor is a gradio_client session. It requests a text, reads its queue position while it waits, receives the text
and requests the next one until the time is up; requests still waiting then are allowed to finish. After a few runs the
visitor leaves and comes back as another session. The report counts finished runs, reported positions and errors, the
server's memory at the start, after the warm-up and at the end, and what it left in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools.race_versions import unpack

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 300  # for the server to start
TIMEOUT_SECONDS = 60  # per response: thirty clients share this process and the two cores
ASSETS = "DIFFUAPRIEL_ASSETS"  # another version has its own
LAST_SECONDS = 300  # for requests that still wait when the time is up
RUNS_PER_SESSION = 5
MOST_GROWTH = 0.05  # of memory, from the end of the warm-up to the end
TEXT = "Mia found a [MASK:6]."
STORY, STORY_LENGTH = "One day,", 96


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
            options: dict[str, Any] = {"analytics_enabled": False, "httpx_kwargs": {"timeout": TIMEOUT_SECONDS}}
            while time.monotonic() < self.until:
                client = Client(self.url, verbose=False, download_files=False, **options)
                self._count("sessions opened")
                for _ in range(RUNS_PER_SESSION):
                    if time.monotonic() < self.until:
                        self._ask(client, number)
                client.close()
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
        text = job.result()["text"]
        self._count("runs that finished" if text and "[MASK" not in text else "runs without a text")
        self._count("runs that were told their place" if told else "runs that got their turn at once")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def serve(
    port: int, folder: str, lines: list[str] | None = None, *more: str, root: Path = ROOT
) -> subprocess.Popen[str]:
    """Start the app as a user would, on 127.0.0.1; returns when it listens. Raises RuntimeError if it does not.

    folder: for its temporary files. lines: receives what it prints from then on. more: options of the app. root: of
    another version's files.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("GRADIO_TEMP_DIR", ASSETS)}
    server = subprocess.Popen(
        [sys.executable, str(root / "app" / "main.py"), "--port", str(port), *more],
        env={**environment, "TMPDIR": folder, "PYTHONPATH": str(root)},
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
            reader = ([] if lines is None else lines).extend  # read on: a full pipe would stop it
            threading.Thread(target=reader, args=(server.stdout,), daemon=True).start()
            return server
        print(line, end="")
    raise RuntimeError("the app did not start; its last output is above")


def stories(url: str, visitors: int, rule: dict[str, Any]) -> tuple[list[float], list[str]]:
    """The seconds that every visitor waited for their story, and the stories. All ask at the same moment."""
    from gradio_client import Client

    options: dict[str, Any] = {"analytics_enabled": False, "httpx_kwargs": {"timeout": None}}
    begin = threading.Barrier(visitors)
    asked: dict[str, Any] = {"text": STORY, "length": STORY_LENGTH, **rule}

    def visit(number: int) -> tuple[float, str]:
        client = Client(url, verbose=False, download_files=False, **options)
        if number == 0:
            client.predict(**asked, seed=visitors, api_name="/unmask")  # loads the model
        begin.wait()
        began = time.monotonic()
        answer = client.predict(**asked, seed=number, api_name="/unmask")
        waited = time.monotonic() - began
        client.close()
        return waited, answer["text"] if isinstance(answer, dict) else answer[2]  # the latter of older versions

    with ThreadPoolExecutor(visitors) as threads:
        waited, texts = zip(*threads.map(visit, range(visitors)), strict=True)
    return list(waited), list(texts)


def compare_stories(visitors: int, port: int, rule: dict[str, Any], older: str = "", app: Sequence[str] = ()) -> int:
    """Print how long visitors wait for a story, one after the other and together. Returns 1 if a text differs.

    rule: the settings, where not the page's own. older: a version of this repository to compare with, by its own
    settings. app: further options of the app.
    """
    print(f"{visitors} visitors, each asks for a story of {STORY_LENGTH} tokens at the same moment")
    found: list[tuple[float, list[str]]] = []
    with tempfile.TemporaryDirectory(prefix="load-test-") as folder:
        ways: list[tuple[str, Path, tuple[str, ...], dict[str, Any]]] = [
            ("sharing passes", ROOT, tuple(app), rule),
            ("one after the other", ROOT, ("--batch", "1", *app), rule),
        ]
        if older:
            unpack(older, Path(folder) / "older")
            ways.append((f"version {older}", Path(folder) / "older", (), {}))
        for about, root, more, settings in ways:
            server = serve(port, folder, None, *more, root=root)
            try:
                waited, texts = stories(f"http://127.0.0.1:{port}/", visitors, settings)
            finally:
                server.terminate()
                server.wait()
            found.append((statistics.median(waited), texts))
            median = f"median wait {found[-1][0]:.1f} s, shortest {min(waited):.1f}, longest {max(waited):.1f}"
            print(f"  {about}: {median}", flush=True)
    (together, shared), (_, told), *_ = found
    same = sum(one == other for one, other in zip(told, shared, strict=True))
    for (about, *_), (median, _) in zip(ways[1:], found[1:], strict=True):
        print(f"  sharing passes, the median wait is {median / together:.1f} times shorter than by: {about}")
    print(f"  {same} of {visitors} texts are equal to those written alone")
    return int(same < visitors)


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
    parser.add_argument("--stories", action="store_true", help="one story for each visitor, served in both ways")
    parser.add_argument("--older", default="", help="a commit or tag to compare the stories with")
    parser.add_argument("--strategy", help="of the stories (default: the page's own settings)")
    parser.add_argument("--checkpoint", help="the model that writes the stories (default: the page's first one)")
    options = parser.parse_args(arguments)
    if options.stories:
        chosen = ("--checkpoint", options.checkpoint) if options.checkpoint else ()
        rule = {"strategy": options.strategy} if options.strategy else {}
        return compare_stories(options.visitors, options.port, rule, options.older, chosen)
    folder = tempfile.mkdtemp(prefix="load-test-")
    server = serve(options.port, folder)
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
    left = left_in(folder)
    shutil.rmtree(folder)
    return report(visitors, seen, took, alive, left)


def left_in(folder: str) -> list[str]:
    """The files below a folder."""
    return [str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()]


def report(visitors: Visitors, seen: list[tuple[float, int]], took: float, alive: bool, left: list[str]) -> int:
    """Print the counts; returns 0 if all went well."""
    warm = min(300.0, max(60.0, took / 6), took / 2)
    first = next((size for second, size in seen if second >= warm), 0)
    last = seen[-1][1] if seen else 0
    growth = last / first - 1 if first else float("nan")
    print(f"{visitors.number} visitors, {took:.0f} s, the app {'still serves' if alive else 'has died'}")
    for what, number in sorted(visitors.counts.items()):
        print(f"  {number:5,} {what}")
    print(f"  {len(visitors.errors):5,} errors")
    print(f"  place in the queue: up to {visitors.worst_place}")
    start, warmed = seen[0][1] if seen else 0, f"{first / 1e6:,.0f} MB after {warm:.0f} s"
    print(f"  memory: {start / 1e6:,.0f} MB at first, {warmed}, {last / 1e6:,.0f} MB at the end ({growth:+.1%})")
    print(f"  {len(left):5,} files left in the folder for temporary files {left[:3] or ''}")
    for error, number in Counter(visitors.errors).most_common(5):
        print(f"  {number} × {error[:300]}", file=sys.stderr)
    bad = visitors.errors or visitors.counts["visitors left waiting"] or visitors.counts["runs without a text"]
    return int(bool(bad or left) or not alive or not growth <= MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
