"""Every text of the page exists in every language, with the same holes, and the page is built in the one asked for."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from app.arguments import read_options
from app.strings import language
from app.strings.language import texts
from diffuapriel.tales.grammar.parser import REASONS
from diffuapriel.trace.gif import WORDS as GIF_WORDS
from diffuapriel.trace.player import read_source
from diffuapriel.trace.trace import PAGE_WORDS

ROOT = Path(__file__).resolve().parents[3]
TRANSLATIONS = language.languages()[1:]
STORIES = (
    "EXAMPLES",
    "INSIDE_EXAMPLES",
    "SURPRISAL_EXAMPLES",
)  # named in the language, told in the models' English
KEPT = {"INSIDE_TEXT", "MODULATIONS", "TITLE"}  # a story, names of the API, the name


def holes(value: Any) -> Any:
    """A text's {holes} and %{holes}, in any order; of lists and tables, part by part."""
    if isinstance(value, str):
        return sorted(re.findall(r"%?\{[^{}]*\}|<extra></extra>", value))
    if isinstance(value, dict):
        return {key: holes(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [holes(part) for part in value]
    return value


def player_words() -> dict[str, Any]:
    """WORDS of player.js: it is written so that Python reads it once its keys are quoted."""
    source = re.search(r"const WORDS = (\{.*?\n\});", read_source("player.js"), re.S)
    assert source
    lines = [re.sub(r"^\s*//.*$", "", line) for line in source.group(1).splitlines()]
    return ast.literal_eval(re.sub(r'(?m)(^\s*|[,{] )(\w+): (?=["\[])', r'\1"\2": ', "\n".join(lines)))


@pytest.fixture(autouse=True)
def english_again():
    yield
    texts.use("en")


def test_german_is_there():
    assert language.languages() == ["en", "de"]


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_every_text_is_translated_and_nothing_else(code):
    table = language.table(code)
    assert sorted(set(language.ENGLISH) - set(table)) == []
    assert sorted(set(table) - set(language.ENGLISH)) == []


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_a_translation_has_the_same_holes_and_parts(code):
    table = language.table(code)
    for name, text in language.ENGLISH.items():
        if text != {}:  # English is where the words are used
            assert holes(table[name]) == holes(text), name
    assert holes(table["TALE_REASONS"]) == holes(REASONS) and holes(table["GIF"]) == holes(GIF_WORDS)


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_the_player_is_translated_too(code):
    words, translated = player_words() | PAGE_WORDS, language.table(code)["PLAYER"]
    assert sorted(set(words) ^ set(translated)) == []
    assert holes(translated) == holes(words)


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_no_long_text_was_left_in_english(code):
    table = language.table(code)
    same = {name for name, text in language.ENGLISH.items() if isinstance(text, str) and table[name] == text}
    assert {name for name in same - KEPT if len(language.ENGLISH[name].split()) > 2} == set()
    for name in STORIES:
        assert [list(e)[1:] for e in table[name]] == [list(e)[1:] for e in language.ENGLISH[name]]


def test_the_page_and_its_player_are_built_in_the_language_asked_for(checkpoints):
    from app.main import build
    from app.server.models import Models

    assert read_options([]).language == "en"
    texts.use(read_options(["--language", "de"]).language)
    config = str(build(Models(checkpoints)).get_config_file())
    assert texts.RUN == "Start"
    for text in (
        "Text mit Lücken",
        "Aufdecken",
        "Ab welcher Länge lohnt es sich?",
        "Wie viele Schritte braucht es?",
    ):
        assert text in config
    for text in ("Text with holes", "Where is the crossover", "How many steps does it need"):
        assert text not in config


def test_a_language_without_a_file_is_refused_with_those_that_have_one():
    with pytest.raises(ValueError, match="--language is 'xx'; there are: en, de"):
        read_options(["--language", "xx"])


def test_every_text_that_is_read_exists_and_every_text_is_read():
    """`texts.NAME` is looked up when it is read: no type checker would notice a wrong name."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "app").rglob("*.py")]
    named = r"""\b(?:texts\.|table\[")([A-Z][A-Z0-9_]*)"""
    read = set(re.findall(named, "\n".join(sources))) - {"NAME"} | {"DECIMAL"}
    assert sorted(read - set(language.ENGLISH)) == []
    assert sorted(set(language.ENGLISH) - read) == []


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=lambda path: path.name)
def test_no_text_is_read_when_a_module_is_imported(path):
    """The language is chosen after that: what was read before would stay English."""
    now: list[int] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]:
                visit(part)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "texts":
            now.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    assert not now, f"{path.name} reads texts at lines {now}"
