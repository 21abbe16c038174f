"""Hostile requests to every route: `python -m tools.attack` starts an app and sends it 10,000 of them.

Bodies, names, ids, paths, files and headers are mutated at random (same seed, same requests) and come from many
addresses of this machine, as bounds per address would otherwise refuse most of them. After every batch an honest
visitor opens the page and calls an endpoint. The report has a row per route; it is a failure where the honest visitor
waits for more than two seconds, an answer is a 500, the log has a traceback, or the app dies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tools.load_test import left_in, serve

API = "gradio_api/"
ADDRESSES = 40  # 127.0.1.1 and on; the honest visitor is 127.0.0.1
BATCH = 200
AT_ONCE = 16
MOST_SECONDS = 2.0  # that an honest visitor waits
LISTEN_SECONDS = 0.5  # how long a stream is read before the connection is broken off
EVIL = "<img src=x onerror=alert(1)>"
ATOMS = [
    *(None, True, "", "8", -1, 2**70, 1e308, float("nan"), float("inf"), [], {}, [[[]]], "\ud800", "\0", EVIL),
    *("a" * 20_001, "[MASK:99999999]", "../../etc/passwd", "/etc/passwd", {"path": "/etc/passwd"}, [None] * 300),
    *({"path": "x", "meta": {"_type": "gradio.FileData"}}, {"__type__": "update", "value": EVIL}, 10**400),
]
NAMES = ["", "a b", "ä", "a" * 65, "../x", "%00", "x", "known", "a\n", "0" * 5000, "null", "\u202e"]
PATHS = ["/etc/passwd", "../../../etc/passwd", "http://127.0.0.1:22/", "https://example.org/", "%2e%2e/x", "x" * 5000]
ENDPOINTS = ["unmask", "race", "sweep", "inside", "surprisal", "steps_quality", "models", "open_trace", "x", "predict"]
UNMASK = ["Mia found a [MASK:6].", "tales-diffuapriel", 1024, 256, "low_confidence", 1.0, 0, 0.9, 0, 0, "prompt"]
HEADERS: list[dict[str, str]] = [
    *({}, {}, {}, {"origin": "https://evil.example"}, {"host": "evil.example"}, {"x-forwarded-host": "evil.example"}),
    *({"cookie": "a=b; " * 500}, {"content-type": "text/plain"}, {"range": "bytes=0-,-1"}, {"x-gradio-server": EVIL}),
    *({"content-encoding": "gzip"}, {"accept-encoding": "br;q=x"}, {"transfer-encoding": "chunked"}),
]


@dataclass
class Row:
    """What came of the requests to one route."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Attack:
    """One attack: `url` is attacked, `rows` say how."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.draw = url, random.Random(seed)
        self.rows: defaultdict[str, Row] = defaultdict(Row)
        self.honest: list[float] = []
        options: dict[str, Any] = {"timeout": 60, "follow_redirects": False}
        addresses = [f"127.0.1.{n}" for n in range(1, ADDRESSES + 1)]
        self.clients = [
            httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=address), **options)
            for address in addresses
        ]

    # -- what is sent --

    def value(self) -> Any:
        return self.draw.choice(ATOMS)

    def event(self) -> dict[str, Any]:
        """The body of an event, most of it good, some of it not."""
        draw = self.draw
        data = [*UNMASK, None] if draw.random() < 0.3 else [self.value() for _ in range(draw.randrange(14))]
        if data and draw.random() < 0.5:
            data[draw.randrange(len(data))] = self.value()
        body: dict[str, Any] = {"data": data, "fn_index": draw.randrange(90), "session_hash": f"s{draw.randrange(400)}"}
        for name in ("session_hash", "fn_index", "event_id", "trigger_id", "event_data", "data", "batched"):
            if draw.random() < 0.08:
                body[name] = draw.choice([*ATOMS, *NAMES])
        return body

    def body(self) -> bytes:
        """JSON, cut off, too large, too deep or no JSON at all."""
        kind = self.draw.random()
        if kind < 0.05:
            return b'{"data":[' + b"[]," * self.draw.choice((1_000, 300_000, 3_000_000)) + b"[]]}"
        if kind < 0.1:
            return b"[" * self.draw.choice((500, 100_000))
        text = json.dumps(self.event()).encode()
        if kind < 0.2:
            return text[: self.draw.randrange(len(text))]
        if kind < 0.3:
            return self.draw.randbytes(200)
        return text

    def request(self) -> tuple[str, str, str, dict[str, Any]]:
        """(row, method, path, options of httpx)"""
        draw = self.draw
        headers = {"content-type": "application/json", **draw.choice(HEADERS)}
        options: dict[str, Any] = {"headers": headers}
        kind = draw.randrange(14)
        if kind <= 3:
            path = draw.choice(["queue/join", "run/predict", "cancel", "reset", "component_server", "vibe-edit"])
            return path, "POST", API + path, {**options, "content": self.body()}
        if kind <= 5:
            path = f"{draw.choice(['call', 'call/v2', 'run', 'api'])}/"
            content = {"content": self.body()}
            return f"{path}*", "POST", API + path + draw.choice([*ENDPOINTS, *NAMES]), {**options, **content}
        if kind <= 7:
            path = draw.choice(["queue/data?session_hash=", "heartbeat/", "call/unmask/", "upload_progress?upload_id="])
            name = draw.choice([*NAMES, f"s{draw.randrange(400)}"])
            return path.split("?")[0], "GET", API + path + name, options
        if kind == 8:
            path = draw.choice(["file=", "file/", "proxy=", "stream/", "custom_component/", "mcp/"])
            return path, "GET", API + path + draw.choice(PATHS), options
        if kind == 9:
            path = draw.choice(["static/", "assets/", "svelte/"])
            return path, "GET", path + draw.choice(PATHS), options
        if kind == 10:
            path = draw.choice(["", "config", "theme.css", "openapi.json", "logout", "manifest.json", "robots.txt"])
            query = draw.choice(["", "?deep_link=../x", "?page=x", f"?__theme={EVIL}"])
            return path or "/", draw.choice(["GET", "HEAD", "PUT", "OPTIONS"]), path + query, options
        if kind == 11:
            login = {"username": draw.choice(["room", EVIL]), "password": str(self.value())[:3000]}
            return "login", "POST", "login", {"data": login}
        if kind == 12:
            file = (
                draw.choice([*NAMES, "a.json", "../../a.json", f"{EVIL}.json"]),
                draw.randbytes(draw.choice((0, 99, 10**6))),
            )
            return "upload", "POST", f"{API}upload", {"files": {draw.choice(["files", "x"]): file}}
        content = draw.choice(
            [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n", b"\0" * 10_000]
        )
        kinds = {"content-type": draw.choice(["multipart/form-data; boundary=x", "multipart/form-data", "x"])}
        return "upload, broken", "POST", f"{API}upload", {"content": content, "headers": kinds}

    # -- sending --

    async def one(self) -> None:
        """Send one request; a stream is broken off after a moment."""
        name, method, path, options = self.request()
        client = self.draw.choice(self.clients)
        began = time.monotonic()
        try:
            async with client.stream(method, self.url + path, **options) as answer:
                status = str(answer.status_code)
                async with asyncio.timeout(LISTEN_SECONDS):
                    await answer.aread()
        except TimeoutError:
            status = "stream"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
            status = "dropped" if isinstance(error, httpx.HTTPError) else "unsendable"
        self.rows[name].statuses[status] += 1
        self.rows[name].seconds.append(time.monotonic() - began)

    async def visit(self) -> None:
        """The honest visitor: the page, and a call with its answer."""
        async with httpx.AsyncClient(timeout=60) as client:
            began = time.monotonic()
            assert (await client.get(self.url)).status_code == 200, "the page"
            started = await client.post(f"{self.url}{API}call/models", json={"data": []})
            answer = await client.get(f"{self.url}{API}call/models/{started.json()['event_id']}")
            assert "event: complete" in answer.text, answer.text
            self.honest.append(time.monotonic() - began)

    async def run(self, requests: int) -> None:
        """Send all requests, some at once, and visit after each batch."""
        for sent in range(0, requests, BATCH):
            left = min(BATCH, requests - sent)

            async def worker(share: int) -> None:
                for _ in range(share):
                    await self.one()

            shares = [left // AT_ONCE + (n < left % AT_ONCE) for n in range(AT_ONCE)]
            await asyncio.gather(*map(worker, shares))
            await self.visit()
        for client in self.clients:
            await client.aclose()


def main(arguments: list[str] | None = None) -> int:
    """Attack and print the table. Returns 1 for a failure."""
    parser = argparse.ArgumentParser(description="Hostile requests to every route of an app that this program starts.")
    parser.add_argument("--requests", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7891, help="port of the app under attack (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder, lines = tempfile.mkdtemp(prefix="attack-"), []
    server = serve(options.port, folder, lines)
    attack = Attack(f"http://127.0.0.1:{options.port}/", options.seed)
    process = psutil.Process(server.pid)
    before, began = process.memory_info().rss, time.monotonic()
    try:
        asyncio.run(attack.run(options.requests))
        after, files = process.memory_info().rss, process.num_fds()
    finally:
        alive = server.poll() is None
        server.terminate()
        server.wait()
    left = left_in(folder)
    shutil.rmtree(folder)
    took = time.monotonic() - began
    print(f"{options.requests:,} requests in {took:.0f} s, the app {'still serves' if alive else 'has died'}")
    print(
        f"memory {before / 1e6:,.0f} MB before, {after / 1e6:,.0f} MB after; {files} open files; {len(left)} files left"
    )
    return report(attack, lines, alive and not left)


def report(attack: Attack, lines: list[str], good: bool) -> int:
    """Print the table; returns 0 if all went well."""
    print(f"{'route':28} {'requests':>8} {'median ms':>10} {'max ms':>8}  answers")
    for name, row in sorted(attack.rows.items()):
        median, worst = 1000 * statistics.median(row.seconds), 1000 * max(row.seconds)
        answers = ", ".join(f"{status} {number:,}" for status, number in sorted(row.statuses.items()))
        print(f"{name:28} {len(row.seconds):8,} {median:10.0f} {worst:8.0f}  {answers}")
    tracebacks = sum("Traceback" in line for line in lines)
    faults = sum(row.statuses["500"] for row in attack.rows.values())
    slowest = max(attack.honest, default=float("inf"))
    print(
        f"honest visits: {len(attack.honest)}, median {statistics.median(attack.honest):.2f} s, slowest {slowest:.2f} s"
    )
    print(f"log: {len(lines):,} lines, {tracebacks} tracebacks; answers 500: {faults}")
    return int(not good or bool(tracebacks or faults) or slowest > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
