"""Screens draw characters, not bytes: Python's rule here, player.js's in tests/browser/player/test_characters.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuapriel.commands.console.terminal import pieces
from diffuapriel.tokenizer import VOCABULARIES, get_tokenizer
from diffuapriel.trace.characters import PENDING, spread

TEXTS = {
    "umlauts": "Müller fand eine schöne Straße",
    "quotes": "it’s “so” … €",
    "emoji": "👩🏽\u200d🔬 🙂 🇩🇪🇫🇷",
    "chinese": "猫が好き 汉字",
    "arabic": "مرحبا بالعالم",
    "hebrew": "שלום עולם",
    "marks": "Zoe\u0308 e\u0301\u0323",
}
CASES = [  # display strings of a row of tokens (None: a mask), and what each one draws
    ([r"\xc3", r"\xbc", "b"], ["ü", "", "b"]),
    ([r"\xe7", r"\x8c", r"\xab"], ["猫", "", ""]),
    ([r" \xe2\x80", r"\x99", "s"], [" ’", "", "s"]),
    ([r"\xc3", None, r"\xbc"], [PENDING, "", PENDING]),
    ([r"\xe2", r"\x80", "b"], [PENDING, PENDING, "b"]),
    ([r"\xe2\x80", " b"], [PENDING, " b"]),
    (["é", r"\xc3", r"\xa9"], ["é", "é", ""]),
    (["🇩", "🇪", "🇫", "🇷"], ["🇩🇪", "", "🇫🇷", ""]),
    (["👩", "\u200d", "🔬", "🔬"], ["👩\u200d🔬", "", "", "🔬"]),
    ([r"\x41", "\\", "xc3"], [r"\x41", "\\", "xc3"]),
    ([], []),
]


@pytest.mark.parametrize(("texts", "drawn"), CASES)
def test_a_character_is_drawn_by_its_first_token(texts, drawn):
    assert spread(texts) == drawn


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_the_tokens_draw_is_the_text(name, text):
    tokenizer = get_tokenizer(name)
    drawn = spread(tokenizer.token_strings(tokenizer.encode(text)))
    assert "".join(drawn) == text
    assert PENDING not in drawn


@given(st.text(max_size=12))
def test_any_text_is_drawn_as_it_is(text):
    tokenizer = get_tokenizer("tales-words")
    assert "".join(spread(tokenizer.token_strings(tokenizer.encode(text)))) == text


def test_the_terminal_draws_characters():
    tokenizer = get_tokenizer("tales-words")
    ids = [*tokenizer.encode("für"), tokenizer.mask_id]
    shown = [text for text, _ in pieces(ids, (), tokenizer)]
    assert shown[:-1] == ["f", "ü", "r"] and "░" in shown[-1]
