"""The command line of the app: what to offer, where to listen, who may come in, and how much each may ask for.

Whoever reaches the page can make this machine work. So other machines reach it only behind a password, and every
limit given here is the one that the server checks (app/server/limits.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass

from app.server.limits import MOST_QUEUE, MOST_STEPS, MOST_TOKENS, Limits, of_room
from app.strings.language import languages, table

AUTH_VARIABLE = "DIFFUAPRIEL_AUTH"
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Options:
    """A command line that can be served."""

    checkpoints: tuple[str, ...]
    device: str | None
    host: str
    port: int | None
    auth: tuple[str, str] | None  # user, password
    limits: Limits
    mcp: bool
    language: str

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach the page."""
        return not is_loopback(self.host)


def parser() -> argparse.ArgumentParser:
    """What `python app/main.py --help` prints."""
    usual = Limits()
    made = argparse.ArgumentParser(description="DiffuApriel in a browser: watch it write, and race it.")
    add = made.add_argument
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="PATH",
        help="a checkpoint folder, offered before the bundled ones in every tab; may be given several times",
    )
    add("--device", help="cpu, cuda or mps (default: cuda where there is one, else cpu)")
    add(
        "--host",
        default=HERE,
        help=f"address to listen on (default: {HERE}, this machine only); others need --auth",
    )
    add("--port", type=int, help="port (default: the first free one from 7860)")
    add(
        "--auth",
        metavar="USER:PASSWORD",
        help=f"ask for this name and password; better as {AUTH_VARIABLE}=user:password in the environment, "
        "where it is in no shell history and no list of processes",
    )
    add("--max-tokens", type=int, default=usual.max_tokens, help="longest canvas (default: %(default)s)")
    add("--max-steps", type=int, default=usual.max_steps, help="most steps of a run (default: %(default)s)")
    add(
        "--queue",
        type=int,
        default=usual.max_waiting,
        help="how many may wait for their turn; more are told so at once (default: %(default)s)",
    )
    add("--mcp", action="store_true", help="offer the tabs as tools of an MCP server as well")
    add("--language", default="en", help=f"of the page: {', '.join(languages())} (default: %(default)s)")
    return made


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The command line as checked values. Raises ValueError that names the value and the way out."""
    given = parser().parse_args(arguments)
    port = given.port if given.port is None else in_range("--port", given.port, 1, 65_535)
    auth = read_auth(given.auth, os.environ.get(AUTH_VARIABLE))
    if not is_loopback(given.host) and auth is None:
        raise ValueError(
            f"--host {given.host} lets other machines in, so it needs a password: add --auth user:password, or set "
            f"{AUTH_VARIABLE}=user:password; or leave --host out to serve this machine alone"
        )
    if given.mcp:
        need_mcp(auth)
    table(given.language)
    limits = of_room(
        max_tokens=in_range("--max-tokens", given.max_tokens, *MOST_TOKENS),
        max_steps=in_range("--max-steps", given.max_steps, *MOST_STEPS),
        max_waiting=in_range("--queue", given.queue, *MOST_QUEUE),
    )
    return Options(
        tuple(given.checkpoint), given.device, given.host, port, auth, limits, given.mcp, given.language
    )


def in_range(name: str, value: int, low: int, high: int) -> int:
    """`value` where it is from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it may be {low:,} to {high:,}")
    return value


def read_auth(argument: str | None, variable: str | None) -> tuple[str, str] | None:
    """(user, password) of the argument, else of the environment variable; None where there is neither.

    The message of a bad one does not repeat it: it may be half a password.
    """
    name, given = ("--auth", argument) if argument is not None else (AUTH_VARIABLE, variable)
    if not given and argument is None:
        return None
    user, colon, password = (given or "").partition(":")
    if not (user and colon and password):
        raise ValueError(f"{name} is not of the form user:password; both must be there, with a colon between")
    return user, password


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other machine reaches. Names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def need_mcp(auth: tuple[str, str] | None) -> None:
    """Raises ValueError where Gradio's MCP server has not been installed, or would let in who has no password."""
    if auth is not None:
        raise ValueError(
            "--mcp cannot ask for a password: leave --auth out, and it serves this machine alone"
        )
    if importlib.util.find_spec("mcp") is None:
        raise ValueError("--mcp needs the package mcp, which is not installed: pip install 'gradio[mcp]'")
