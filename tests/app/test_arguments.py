"""The command line: other machines come in only with a password, and every limit is one the server checks."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from app import arguments, main
from app.arguments import AUTH_VARIABLE, is_loopback, read_options
from app.main import greeting
from app.race.request import read_race
from app.server.limits import Limits, Refused
from app.server.models import Models
from app.unmask.request import read_request


@pytest.fixture(autouse=True)
def no_password_around(monkeypatch):
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)


def test_without_arguments_it_serves_this_machine_alone_and_says_so():
    options = read_options([])
    assert (options.host, options.auth, options.mcp, options.limits) == ("127.0.0.1", None, False, Limits())
    assert not options.open_to_others
    assert "It listens on 127.0.0.1 only" in "\n".join(greeting(options, "http://127.0.0.1:7860/"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "lab.example.org", "", "127.0.0.1.evil.org"])
def test_another_address_without_a_password_is_refused_with_the_way_out(host):
    with pytest.raises(ValueError, match="needs a password: add --auth user:password"):
        read_options(["--host", host])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_this_machines_own_addresses_need_none(host):
    assert is_loopback(host)
    assert not read_options(["--host", host]).open_to_others


def test_with_a_password_a_room_may_come_in_and_is_told_how():
    options = read_options(["--host", "0.0.0.0", "--auth", "room:a:b c"])
    assert options.auth == ("room", "a:b c")
    assert options.open_to_others
    said = "\n".join(greeting(options, "http://localhost:7861/"))
    assert "port 7861" in said
    assert "not encrypted" in said
    assert "a:b c" not in said


def test_the_password_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(AUTH_VARIABLE, "room:secret")
    assert read_options(["--host", "0.0.0.0"]).auth == ("room", "secret")
    assert read_options(["--auth", "me:mine"]).auth == ("me", "mine")


@pytest.mark.parametrize("value", ["secretword", ":secretword", "secretword:", ":", ""])
def test_half_a_password_is_refused_and_not_repeated(value):
    with pytest.raises(ValueError, match="not of the form user:password") as refused:
        read_options(["--auth", value])
    assert "secretword" not in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "value", "range_"),
    [
        ("--max-tokens", "100", "128 to 16,384"),
        ("--max-tokens", "99999", "128 to 16,384"),
        ("--max-steps", "0", "8 to 4,096"),
        ("--queue", "0", "1 to 1,000"),
        ("--port", "70000", "1 to 65,535"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(argument, value, range_):
    with pytest.raises(ValueError, match=f"{argument} is {value}; it must be a whole number from {range_}"):
        read_options([argument, value])


@pytest.mark.parametrize(
    ("argument", "value", "read"),
    [("--root-path", "/lab/diffuapriel/", "/lab/diffuapriel"), ("--root-path", "/", ""), ("--root-path", "", "")],
)
def test_a_root_path_is_read_without_a_slash_at_its_end(argument, value, read):
    assert read_options([argument, value]).root_path == read


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("--root-path", path) for path in ("lab", "//evil.org", "/a b", "https://x.org/a", "/a/../b?c", "/a\n")),
        *(("--allowed-host", name) for name in ("", "*", "a:80", "http://a", "a/b", "a b")),
    ],
)
def test_what_is_no_path_or_name_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is .* must"):
        read_options([argument, value])


def test_mcp_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"-m pip install 'mcp>=1.21,<2'"):
        read_options(["--mcp"])


def test_mcp_is_not_offered_past_a_password(monkeypatch):
    monkeypatch.setattr(arguments.importlib.util, "find_spec", lambda name: object())
    assert read_options(["--mcp"]).mcp
    with pytest.raises(ValueError, match="--mcp cannot ask for a password"):
        read_options(["--mcp", "--auth", "a:b"])


def test_the_limits_of_the_command_line_are_the_ones_that_the_server_checks(checkpoints):
    models = Models(checkpoints)
    limits = read_options(["--max-tokens", "256", "--max-steps", "16", "--queue", "3"]).limits
    assert limits.max_waiting == 3
    good = ["", "toy-diffuapriel", 256, 16, "low_confidence", 1.0, 0, 1.0, 0, 0, "prompt", 0.9]
    assert read_request(models, limits, *good).length == 256
    for position, value, said in ((2, 257, "from 0 to 256"), (3, 17, "from 1 to 16")):
        with pytest.raises(Refused, match=said):
            read_request(models, limits, *good[:position], value, *good[position + 1 :])
    race = ["toy-diffuapriel", "toy-diffutran", "", 256, 16, "low_confidence", 1, 0, 0]
    assert read_race(models, limits, *race).length == 256
    with pytest.raises(Refused, match="from 1 to 256"):
        read_race(models, limits, *race[:3], 257, *race[4:])
    assert limits.race_tokens("cuda") == 256


def test_the_queue_is_as_long_as_asked_for(checkpoints):
    from app.main import build

    page = build(Models(checkpoints), Limits(max_waiting=3, max_tokens=128, max_steps=8))
    assert page._queue.max_waiting == 3


def test_a_taken_port_is_named_with_the_way_out_before_anything_is_built(monkeypatch, capsys):
    monkeypatch.setattr(main, "build", lambda *_: pytest.fail("the page was built first"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main.main(["--port", f"{port}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"app: --port {port} cannot be used on 127.0.0.1: ") and said.count("\n") == 1
    assert "name another port, or leave --port out for a free one" in said
