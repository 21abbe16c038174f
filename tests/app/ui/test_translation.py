"""The page in another language: chosen by each visitor, complete, with numbers as people write them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from types import SimpleNamespace

import pytest

from app.main import build
from app.quality.curves import curve_settings
from app.race.request import race_settings, sweep_settings
from app.server.guard import as_message
from app.server.limits import Refused, whole_number
from app.server.models import Models
from app.strings.language import COOKIE, ENGLISH, TABLES, texts, translated
from app.ui import render
from app.ui.tale_check import judge
from app.unmask.request import unmask_settings
from diffuapriel.benchmark.memory import out_of_memory, refusal
from diffuapriel.benchmark.sweep import crossover
from diffuapriel.tokenizer import get_tokenizer

STORIES = {"INSIDE_TEXT", "EXAMPLES", "INSIDE_EXAMPLES", "SURPRISAL_EXAMPLES"}  # told in the models' language
# Names: of the project, of strategies and options, of file formats and models, and words that are the same in German.
NAMES = re.compile(
    r"^(DiffuApriel|[\w.-]*diffu[\w.-]*( · [\d.]+[MB])?|ReMDM.*|top.[kp]|json|gif|csv|seed|.{0,3})$", re.IGNORECASE
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    from tests.app.toys import toy_checkpoints

    return build(Models(toy_checkpoints(tmp_path_factory.mktemp("checkpoints"))))


def strings(value):
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from strings(part)


def labels_of(component) -> dict[str, str]:
    """What a visible component of a page's config says, by where it says it; not the data of the player."""
    props = component["props"]
    keys = ("label", "info", "placeholder", *(() if props.get("choices") else ("value",)))
    found = {key: props.get(key) for key in keys}
    found |= {f"choice {value}": label for label, value in props.get("choices") or [] if label != value}
    said = {key: text for key, text in found.items() if isinstance(text, str) and not text.startswith("{")}
    is_drawn = props.get("visible", True) is True and component["type"] != "api"  # that is a parameter for programs
    return said if is_drawn else {}


def english_texts() -> set[str]:
    """The English texts that the German page must not have: those that a translation replaces."""
    with texts.speaking("de"):
        same = {text for name in ENGLISH for text in strings(getattr(texts, name))}
    found = {text for name, value in ENGLISH.items() if name not in STORIES for text in strings(value)}
    return {text for text in found - same if len(text) > 3}


def test_each_visitor_gets_the_page_in_their_language(page):
    assert page.translations.keys() == {"de"}
    assert "Text with holes" in list(strings(page.config["components"]))
    with texts.speaking("de"):
        assert "Text mit Lücken" in list(strings(page.config["components"]))


def test_no_english_text_is_on_the_german_page(page):
    with texts.speaking("de"):
        shown = [text for component in page.config["components"] for text in labels_of(component).values()]
    inside = {piece.strip() for text in shown for piece in re.split(r"<[^>]*>", text)}
    assert sorted(inside & english_texts()) == []


def test_labels_differ_in_every_component_that_has_words(page):
    with texts.speaking("de"):
        german = {component["id"]: labels_of(component) for component in page.config["components"]}
    stories = set(strings([ENGLISH[name] for name in STORIES]))
    same = {
        text
        for component in page.config["components"]
        for key, text in labels_of(component).items()
        if german[component["id"]].get(key) == text and text not in stories
    }
    assert {text for text in same if " " in text and not NAMES.match(text)} == set()


def test_handlers_answer_in_the_visitors_language(page):
    async def language_of(cookies: dict[str, str]) -> str:
        request = SimpleNamespace(request=SimpleNamespace(cookies=cookies))
        fn = SimpleNamespace()
        with contextlib.suppress(Exception):  # there is no such function; the language is set before
            await page.process_api(fn, [], request=request)
        return texts.LANGUAGE

    assert asyncio.run(language_of({COOKIE: "de"})) == "de"
    assert asyncio.run(language_of({COOKIE: "xx"})) == "en"
    assert asyncio.run(language_of({})) == "en"


def test_numbers_are_written_as_the_language_writes_them():
    assert texts.DONE.format(tokens=89, steps=89, seconds=12.77, rate=1234.5).endswith("12.77 s: 1,234 tokens/s.")
    with texts.speaking("de"):
        line = texts.DONE.format(tokens=89, steps=89, seconds=12.77, rate=1234.5)
        assert "12,77 s" in line and "1.234" in line
        assert texts.number(0.5, ".2f") == "0,50"
        with pytest.raises(Refused, match=r"1 bis 1\.024|1\.024"):
            whole_number("length", 5000, 1, 1024)


def test_lengths_on_the_german_page_have_a_point(page):
    with texts.speaking("de"):
        shown = list(strings(page.config["components"]))
    assert "Rennen über 2.048 Tokens" in shown and "65.536" in shown and "65,536" not in shown


def test_the_verdict_says_why_in_german():
    tokenizer = get_tokenizer("gpt2-4k")
    ids = [*tokenizer.encode("Ruth had five nuts, ate three and kept nine."), tokenizer.eos_id]
    with texts.speaking("de"):
        found = judge(ids, tokenizer, 1)
    assert "„nine“ stimmt nicht: five weniger three ergibt two" in found.html.replace("&#x27;", "'")


def test_messages_of_the_package_are_translated_or_left_out():
    error = ValueError("this is masked already")
    assert as_message(error).message == "this is masked already"
    with texts.speaking("de"):
        assert as_message(error).message == "das ist schon maskiert"
        assert as_message(ValueError("an inner matter")).message == texts.NOT_POSSIBLE
        assert "fairness in English" not in render.fair(["fairness in English"], "race")


NARROW = "canvas: the text takes 1,025 tokens or more; permitted: 1 to 1,024; shorten the text"


@pytest.mark.parametrize(
    ("message", "german"),
    [
        (crossover("A.1", {256: 1.0, 1024: 9.0}, "B.2", {256: 2.0, 1024: 2.0}).message, "A.1"),
        (crossover("A.1", {256: 1.0, 1024: 1.0}, "B.2", {256: 2.0, 1024: 2.0}).message, "von 256 bis 1.024; die"),
        (crossover("A.1", {256: 1.0}, "B.2", {256: 2.0}).message, "A.1 ist bei der einzigen gemessenen Länge"),
        (crossover("A.1", {256: 1.0}, "B.2", {256: 1.0}).message, "A.1 und B.2 sind bei jeder"),
        ("A.1 against B.2: B.2 is faster from about 1,234 tokens on; below, A.1 wins.", "A.1 gegen B.2: Ab etwa 1.234"),
        (refusal(9e15, "cpu", "A.1 at 2,048 tokens"), "A.1 braucht bei 2.048 Tokens etwa 9000000 GB Speicher"),
        (refusal(9e15, "cpu", "loading A.1 und B.2", "a smaller preset"), "A.1 und B.2 zu laden braucht etwa"),
        (out_of_memory("cpu", "A.1 at 2,048 tokens"), "für A.1 reichte der Speicher bei 2.048 Tokens nicht"),
        ("A.1 at 2,048 tokens ran out of GPU memory: it held 1.2 GB of 9 GB", "belegt waren 1,2 GB von 9 GB"),
        ("A at 2,048 tokens would take about 1,200 s for one forward pass; the limit is 60 s", "etwa 1.200 s für"),
        ('canvas: "[MASK:x]" is not a hole; write [MASK]', "„[MASK:x]“ ist keine Lücke"),
        ('canvas: "[MASK:8" has no closing bracket; write [MASK]', "in „[MASK:8“ fehlt die schließende Klammer"),
        (NARROW, "der Text braucht 1.025 Tokens oder mehr; höchstens 1.024 sind erlaubt"),
    ],
)
def test_messages_of_the_package_with_values_are_translated(message, german):
    assert translated(message) == message
    with texts.speaking("de"):
        assert german in translated(message)
        assert translated(f"unheard of: {message}"[:20]) == ""


def test_parameters_have_german_names(models, limits):
    asked = (race_settings, sweep_settings, unmask_settings, curve_settings)
    for setting in (setting for settings in asked for setting in settings(models, limits).values()):
        for bad in (-1e9, []):
            with texts.speaking("de"), pytest.raises(Refused) as caught:
                setting.check(bad)
            name = re.split(" ist | hat ", str(caught.value))[0]
            assert name in strings(TABLES["de"]["PARAMETERS"]), str(caught.value)


def test_the_two_pages_have_the_same_components(page):
    with texts.speaking("de"):
        german = [(c["id"], c["type"]) for c in page.config["components"]]
    assert german == [(c["id"], c["type"]) for c in page.config["components"]]
    assert json.dumps(page.config["dependencies"], default=str)
