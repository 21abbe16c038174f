"""What must hold for player.js and player.css as files, whichever page they end up in."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from diffuapriel.trace.messages import VERSION
from diffuapriel.trace.player import read_source
from diffuapriel.trace.player.gradio_host import html_component_arguments

JS, CSS, PAGE = (read_source(name) for name in ("player.js", "player.css", "page.html"))


def test_the_module_can_stand_inside_a_script_element():
    assert "</script" not in JS.lower() and "<!--" not in JS
    assert "</style" not in CSS.lower()


def test_data_never_becomes_markup():
    for way_in in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "Function(",
    ):
        assert way_in not in JS, way_in


def test_nothing_is_requested():
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts)\b", JS)
    assert re.findall(r"https?://[^\"\s]+", JS) == ["http://www.w3.org/2000/svg"]  # a name space, not an address
    assert not re.search(r"url\(|@import|https?:", CSS)
    assert not re.search(r"https?:|src=", PAGE)


def test_every_rule_of_the_style_sheet_is_the_players_own():
    rules = re.sub(r"/\*.*?\*/", "", CSS, flags=re.S)
    rules = re.sub(r"@keyframes[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", rules)
    for selectors in re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", rules):
        assert ".da-player" in selectors, selectors


def test_every_color_level_of_the_module_has_its_color():
    levels = int(re.search(r"const LEVELS = (\d+);", JS)[1])
    for scale in "vpe":
        assert re.findall(rf"--da-{scale}(\d+):", CSS) == [str(level) for level in range(levels)]


def test_module_and_messages_speak_the_same_version():
    assert re.search(r"const VERSION = (\d+);", JS)[1] == str(VERSION)


def test_the_page_has_a_place_for_everything():
    assert sorted(set(re.findall(r"<!--(\w+)-->", PAGE))) == sorted(
        ["DATA", "LANGUAGE", "LEAD", "NO_SCRIPT", "SCRIPT", "SOURCE", "STYLE", "TITLE", "WORDS"]
    )


def test_gradio_gets_plain_strings_without_quoted_words_in_the_sources():
    arguments = html_component_arguments(empty='It\'s "quiet" <here>')
    assert set(arguments) >= {"value", "html_template", "css_template", "js_on_load", "apply_default_css"}
    assert "export" not in arguments["js_on_load"]
    assert len(re.findall(r"['\"`]\w+['\"`]", arguments["js_on_load"])) < 10  # each could become an event's name


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to parse the module")
def test_the_module_parses_and_is_harmless_without_a_page():
    code = JS + "\nif (typeof mount !== 'function' || typeof race !== 'function') throw new Error('not exported');"
    subprocess.run(["node", "--input-type=module", "-"], input=code, text=True, check=True, capture_output=True)
