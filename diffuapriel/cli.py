"""The `diffuapriel` command: its parser, and the place where errors become one line and an exit code.

    0  done          1  the command was refused or failed          2  wrong arguments          130  interrupted

Each subcommand is a module of diffuapriel/commands: `add` declares its arguments, `run` runs it. PyTorch is imported
only when a subcommand runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from diffuapriel import __version__
from diffuapriel.commands import (
    bench,
    compare,
    evaluate,
    export,
    harness,
    params,
    race,
    sample,
    tasks,
    tokenize,
    train,
    tune,
)
from diffuapriel.commands.console.terminal import printable
from diffuapriel.options import check_utf8

DESCRIPTION = """\
Masked diffusion language models with Mamba backbones: train them, watch them write, measure them, race them.

A text starts as [MASK]s, which the model fills in any order, reading in both directions. Two kinds of backbone compete:
DiffuApriel (bidirectional Mamba-2, linear in length) and DiffuTran (a Transformer, quadratic in length)."""

EPILOG = """\
examples:
  diffuapriel sample                                      write a story and show every step
  diffuapriel sample "Mia found a [MASK:6]."              fill six masks in a sentence
  diffuapriel race tales-diffuapriel tales-diffutran      time two models in interleaved runs
  diffuapriel evaluate tales-diffuapriel                  compare its NELBO with the corpus's exact entropy
  diffuapriel train --corpus tales:1 --minutes 3          train a small model of your own
  diffuapriel COMMAND --help                              describe a command, with examples"""

MAX_MESSAGE = 2000  # characters
COMMANDS = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "tune": tune,
    "harness": harness,
    "tasks": tasks,
    "compare": compare,
    "race": race,
    "bench": bench,
    "export": export,
    "params": params,
    "tokenize": tokenize,
}


class Formatter(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal's width, leaves lists unchanged, and shows defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(p if "\n  " in p else fill(p, width, indent) for p in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        hidden = action.default is None or action.default is False or action.default == argparse.SUPPRESS
        return text if hidden or not action.option_strings else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Formatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"diffuapriel: error: {message}; see {self.prog} --help\n")


def build_parser() -> Parser:
    parser = Parser(prog="diffuapriel", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"diffuapriel {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        text, _, rest = (command.__doc__ or "").partition("\n\n")
        description, _, examples = rest.partition("\nexamples:\n")
        subparser = subparsers.add_parser(
            name,
            help=text.rstrip("."),
            description=f"{text}\n\n{description.strip()}",
            epilog=f"examples:\n{examples}",
        )
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        command.add(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see the module's docstring)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that a pipe on Windows cannot hold is written as \\uXXXX
            stream.reconfigure(errors="backslashreplace")
    code = 130
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        _exit_on_ctrl_c(argv)
    except KeyboardInterrupt:  # a second one, when the first has been reported
        _exit_on_ctrl_c(argv)
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, or `diffuapriel ... | head` closed the pipe: nothing more can be printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"diffuapriel: error: {describe(error)}", file=sys.stderr)
        return code or 1
    return code


def _exit_on_ctrl_c(argv: Sequence[str] | None) -> None:
    """From now on Ctrl-C ends the program at once, without a traceback. A caller within Python keeps its handler."""
    if argv is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run(words: Sequence[str]) -> int:
    parser = build_parser()
    try:
        for word in words:
            check_utf8("an argument", word)
        args = parser.parse_args(words)
        if args.command is None:
            parser.error("a command is missing: " + ", ".join(COMMANDS))
    except ValueError as error:
        print(f"diffuapriel: error: {error}", file=sys.stderr)
        return 2
    except SystemExit as finished:  # --help, --version, or an error that is already printed
        return int(finished.code or 0)
    try:
        return COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        print("diffuapriel: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except SystemExit:  # of the harness
        raise
    except BaseException as error:  # also what is no Exception: a panic of a library in Rust
        if args.debug:
            raise
        print(f"diffuapriel: error: {describe(error)}", file=sys.stderr)
        return 1


def describe(error: BaseException) -> str:
    """The error in one line. An unexpected one is given with its type and a pointer to --debug."""
    text = printable(" ".join(str(error).split()))
    text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."
    expected = (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError, ArithmeticError)
    if text and isinstance(error, expected):
        return text
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"
