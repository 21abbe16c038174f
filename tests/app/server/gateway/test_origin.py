"""The app answers to its own names only, and takes requests from its own pages only."""

from __future__ import annotations

import socket

import pytest
from starlette.datastructures import Headers

from app.server.gateway.origin import Origins, name_of

ORIGINS = Origins(["lab.example.org", "*.room.example"])
HOST = {"host": "192.168.1.7:7860"}


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:7860", "LOCALHOST", "127.0.0.1:7860", "[::1]:7860", "192.168.1.7", "[fe80::1]:80"),
        *(socket.gethostname(), f"{socket.gethostname()}.local:7860", "Lab.Example.org:443", "a.b.room.example"),
    ],
)
def test_its_own_names_addresses_and_the_allowed_ones_are_answered(host):
    assert not ORIGINS.refusal("GET", Headers({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "lab.example.org.evil.example",
        "room.example",
        "xlocalhost",
        "localhost.evil",
        "",
        "[",
        "a b",
        "@",
    ],
)
def test_a_name_that_others_may_point_here_is_refused(host):
    assert "--allowed-host" in ORIGINS.refusal("GET", Headers({"host": host}))
    assert ORIGINS.refusal("GET", Headers({**HOST, "x-forwarded-host": host or "x.evil"}))


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://192.168.1.7:8080", "http://192.168.1.7", "file://", "http://[", ""],
)
def test_no_foreign_page_changes_anything(origin):
    foreign = Headers({**HOST, "origin": origin})
    assert ORIGINS.refusal("POST", foreign) == "requests from other web pages are refused"
    assert not ORIGINS.refusal("GET", foreign), "reading is left to the browser, which gets no CORS header"


def test_the_app_s_own_page_may_post_also_behind_a_proxy():
    assert not ORIGINS.refusal("POST", Headers({**HOST, "origin": "http://192.168.1.7:7860"}))
    assert not ORIGINS.refusal("POST", Headers(HOST)), "a program sends no origin"
    behind = {"host": "127.0.0.1:7860", "origin": "https://lab.example.org"}
    assert not ORIGINS.refusal("POST", Headers(behind))
    assert not ORIGINS.refusal("POST", Headers({**HOST, "x-forwarded-host": "127.0.0.1", "origin": "http://127.0.0.1"}))


def test_a_form_of_a_foreign_page_is_refused_also_without_an_origin():
    assert ORIGINS.refusal("POST", Headers({**HOST, "sec-fetch-site": "cross-site"}))
    assert not ORIGINS.refusal("POST", Headers({**HOST, "sec-fetch-site": "same-origin"}))


@pytest.mark.parametrize(("host", "name"), [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("", ""), ("a]b[", "")])
def test_a_host_is_named_without_its_port(host, name):
    assert name_of(host) == name
