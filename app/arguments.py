"""The command line of the app: models, address, who may connect, and what each visitor may request.

Anybody who reaches the page can make this machine work. Therefore other machines need a password, and the server
checks every limit given here (app/server/limits.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.server.limits import Limits
from app.strings.language import languages, table
from diffuapriel.options import Option, options_of

AUTH_VARIABLE = "DIFFUAPRIEL_AUTH"
TEACHER_VARIABLE = "DIFFUAPRIEL_TEACHER_PASSWORD"
LEAST_TEACHER_PASSWORD = 8
HERE = "127.0.0.1"
PORT = Option("--port", int, None, least=1, most=65_535, optional=True)
FLAGS = {"max_tokens": "--max-tokens", "max_steps": "--max-steps", "max_waiting": "--queue", "batch": "--batch"}
LIMITS = [replace(options_of(Limits)[name], name=flag) for name, flag in FLAGS.items()]


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
    root_path: str = ""
    allowed_hosts: tuple[str, ...] = ()
    teacher_password: str = ""

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach the page."""
        return not is_loopback(self.host)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Serve the DiffuApriel app: watch a model write, and race models.")
    add = made.add_argument
    add(
        "--checkpoint",
        action="append",
        default=[],
        metavar="PATH",
        help="the folder of a run or of a checkpoint, or an id on the Hugging Face Hub, offered before the "
        "bundled ones in every tab; may be given several times",
    )
    add("--device", help="cpu, cuda or mps (default: cuda where available, else cpu)")
    add(
        "--host",
        default=HERE,
        help=f"address to listen on (default: {HERE}, this machine only); any other needs --auth",
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the app is opened by, beside this machine's own names and addresses, e.g. that of a proxy; "
        "may be given several times",
    )
    add(
        "--root-path",
        default="",
        metavar="PATH",
        help="the path below which a proxy serves the app, e.g. /diffuapriel",
    )
    add("--port", type=int, help="port (default: the first free port from 7860)")
    add(
        "--auth",
        metavar="USER:PASSWORD",
        help=f"ask for this name and password; safer as {AUTH_VARIABLE}=user:password in the environment, which "
        "keeps it out of the shell history and the process list. Guesses are slowed to one in five seconds per "
        "address; take at least 10 characters",
    )
    add(
        "--teacher-password",
        metavar="PASSWORD",
        help=f"serve a page for the teacher at /teacher, behind this password; safer as {TEACHER_VARIABLE} in the "
        "environment",
    )
    for name, limit in zip(FLAGS, LIMITS):
        about = f"{limit.help} (default: %(default)s)"
        add(limit.name, dest=name, type=int, default=limit.default, metavar="N", help=about)
    add(
        "--mcp",
        action="store_true",
        help="also serve the tabs as tools of an MCP server, on this machine only",
    )
    add(
        "--language",
        default="en",
        help=f"language of visitors who have chosen none on the page: {', '.join(languages())} (default: %(default)s)",
    )
    return made


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The command line as checked values. Raises ValueError, which names the value and the fix."""
    given = parser().parse_args(arguments)
    port = PORT.check(given.port)
    auth = read_auth(given.auth, os.environ.get(AUTH_VARIABLE))
    if not is_loopback(given.host) and auth is None:
        raise ValueError(
            f"--host {given.host} lets other machines in, so it needs a password: add --auth user:password, or set "
            f"{AUTH_VARIABLE}=user:password; or leave --host out to serve this machine alone"
        )
    if given.mcp and auth is not None:  # Gradio's MCP server would let visitors in without it
        raise ValueError("--mcp cannot ask for a password: leave --auth out, and it serves this machine alone")
    if given.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError(
            f"--mcp needs the package mcp, which is not installed: {sys.executable} -m pip install 'mcp>=1.21,<2'"
        )
    table(given.language)
    limits = {name: limit.check(getattr(given, name)) for name, limit in zip(FLAGS, LIMITS)}
    if limits["max_tokens"] != Limits.max_tokens:  # a chosen limit also caps races
        limits |= dict.fromkeys(("max_race_tokens", "max_race_tokens_on_gpu"), limits["max_tokens"])
    return Options(
        tuple(given.checkpoint),
        given.device,
        given.host,
        port,
        auth,
        Limits(**limits),
        given.mcp,
        given.language,
        read_root_path(given.root_path),
        tuple(map(read_host, given.allowed_host)),
        read_teacher_password(given.teacher_password, auth),
    )


def read_root_path(given: str) -> str:
    """The path of a proxy, without a slash at its end. Raises ValueError."""
    if given and not re.fullmatch(r"/?|(?:/[A-Za-z0-9._~-]+)+/?", given):
        raise ValueError(f"--root-path is {given!r}; it must begin with a slash, e.g. /diffuapriel")
    return given.rstrip("/")


def read_host(given: str) -> str:
    """A name of a host. Raises ValueError."""
    if not re.fullmatch(r"(?:\*\.)?[A-Za-z0-9_.-]+", given):
        raise ValueError(f"--allowed-host is {given!r}; it must be a name without port, e.g. lab.example.org")
    return given


def read_auth(argument: str | None, variable: str | None) -> tuple[str, str] | None:
    """(user, password) from the argument, else from the environment variable; None for neither.

    The message about a bad value does not repeat it: it may be half a password.
    """
    name, given = ("--auth", argument) if argument is not None else (AUTH_VARIABLE, variable)
    if not given and argument is None:
        return None
    user, colon, password = (given or "").partition(":")
    if not (user and colon and password):
        raise ValueError(f"{name} is not of the form user:password; both are required, with a colon between them")
    return user, password


def read_teacher_password(argument: str | None, auth: tuple[str, str] | None) -> str:
    """The password of the teacher's page from the argument, else from the environment; "" for neither."""
    given = os.environ.get(TEACHER_VARIABLE, "") if argument is None else argument
    if (argument is not None or given) and len(given) < LEAST_TEACHER_PASSWORD:
        name = TEACHER_VARIABLE if argument is None else "--teacher-password"
        raise ValueError(f"{name} is too short; it must have at least {LEAST_TEACHER_PASSWORD} characters")
    if given and auth and given == auth[1]:
        raise ValueError("the teacher's password is that of the room; visitors know it: take another one")
    return given


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
