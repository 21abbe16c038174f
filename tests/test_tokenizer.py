"""The tokenizers: what their tables promise, and how odd text and odd ids are treated."""

import pickle
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel import assets
from diffuapriel import tokenizer as module
from diffuapriel.config import TOKENIZER_SIZES
from diffuapriel.tales import language as tales
from diffuapriel.tales.grammar.grammar import split_pieces
from diffuapriel.tokenizer import VOCABULARIES, get_tokenizer
from tools import tales_words

NAMES = list(VOCABULARIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_is_its_ranks_and_two_specials(name):
    tokenizer = get_tokenizer(name)
    assert tokenizer.vocab_size == VOCABULARIES[name] + 2 == TOKENIZER_SIZES[name]
    assert len({tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)}) == tokenizer.vocab_size
    assert all(bytes([byte]) in map(tokenizer.token_bytes, range(256)) for byte in range(256))


def test_the_table_of_words_is_what_the_grammar_can_say():
    written = assets.path(module.WORDS_FILE).read_text(encoding="ascii")
    assert written.split("\n") == [*tales_words.lines(), ""]


@pytest.mark.parametrize("level", tales.LEVELS)
def test_each_word_of_a_tale_is_one_token(level):
    tokenizer, rng = get_tokenizer("tales-words"), random.Random(level)
    for _ in range(300):
        story = tales.generate(level, rng)
        assert tokenizer.token_strings(tokenizer.encode(story)) == split_pieces(story)


def test_a_word_of_the_tales_is_one_token_with_and_without_its_space_and_others_are_bytes():
    tokenizer = get_tokenizer("tales-words")
    for word in ("Mark", "they", "apples", "7"):
        assert len(tokenizer.encode(word)) == len(tokenizer.encode(f" {word}")) == 1
    assert tokenizer.token_strings(tokenizer.encode("A quick fox")) == ["A", *" quick", " fox"]


def test_ids_are_those_of_gpt2():
    gpt2 = get_tokenizer("gpt2")
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(" a 1999") == [257, 7358] and gpt2.encode("\n\n") == [628]
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.mask_id) == (50258, 50256, 50257)


def test_the_small_vocabulary_is_a_prefix_of_the_large_one():
    small, large = get_tokenizer("gpt2-4k"), get_tokenizer("gpt2")
    assert (small.vocab_size, small.eos_id, small.mask_id) == (4098, 4096, 4097)
    assert all(small.token_bytes(i) == large.token_bytes(i) for i in range(4096))


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text())
@settings(deadline=None)
def test_any_text_survives_the_round_trip(name, text):
    text = text.encode("utf-8", errors="ignore").decode()  # lone surrogates are no text
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.eos_id for i in ids)
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@pytest.mark.parametrize("name", NAMES)
def test_specials_written_in_a_text_are_text(name):
    tokenizer = get_tokenizer(name)
    ids = tokenizer.encode("a<|endoftext|>b[MASK]c")
    assert tokenizer.eos_id not in ids and tokenizer.mask_id not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b[MASK]c"


@pytest.mark.parametrize("name", NAMES)
def test_specials_are_shown_by_name(name):
    tokenizer = get_tokenizer(name)
    ids = [tokenizer.mask_id, *tokenizer.encode(" a"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "[MASK] a<|endoftext|>"
    assert tokenizer.token_strings(ids) == ["[MASK]", " a", "<|endoftext|>"]


def test_part_of_a_character_is_shown_as_its_bytes():
    tokenizer = get_tokenizer("gpt2-4k")
    ids = tokenizer.encode("日")
    assert "".join(tokenizer.token_strings(ids)) == r"\xe6\x97\xa5"
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.decode(ids) == "日"


@pytest.mark.parametrize("id", [-1, 4098, 10**9])
def test_an_id_outside_the_vocabulary_is_refused_with_the_range(id):
    tokenizer = get_tokenizer("gpt2-4k")
    with pytest.raises(ValueError, match=r"gpt2-4k: 0 to 4097"):
        tokenizer.decode([id])
    with pytest.raises(ValueError, match=str(id)):
        tokenizer.token_bytes(id)


def test_only_text_is_encoded():
    with pytest.raises(TypeError, match="list"):
        get_tokenizer("gpt2").encode(["a"])  # type: ignore[arg-type]


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpt3'; choose one of gpt2, gpt2-4k"):
        get_tokenizer("gpt3")


def test_there_is_one_tokenizer_of_a_name_also_after_pickling():
    tokenizer = get_tokenizer("gpt2-4k")
    assert pickle.loads(pickle.dumps(tokenizer)) is tokenizer


def test_a_damaged_rank_table_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / module.RANKS_FILE).write_bytes(b"IQ== 0\n")
    monkeypatch.setenv("DIFFUAPRIEL_ASSETS", str(tmp_path))
    module._read_table.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"gpt2\.tiktoken is damaged.*SHA-256"):
            get_tokenizer.__wrapped__("gpt2-4k")
    finally:
        module._read_table.cache_clear()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "é" * 50_000, "\n" * 50_000])
def test_long_runs_of_one_character_are_no_trap(text, name):
    tokenizer = get_tokenizer(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["{}", "{}x", "end.{} x", "é{}\x1c"])
@pytest.mark.parametrize("space", ["\n", " ", "\u3000", "\r\n"])
def test_a_million_spaces_are_encoded_where_tiktoken_panics(text, space):
    text, tokenizer = text.format(space * (1_100_000 // len(space))), get_tokenizer("gpt2")
    same = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert same, "or pytest would compare a million characters"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "It's", "1 ", "...", "\x1c", "\x85", "\u200b", "é"]),
            st.sampled_from([" ", "\n", "\t", "\xa0", "\u2028", "\u3000", "\x1f"]),
            st.integers(0, 12),
        ),
        max_size=8,
    )
)
@settings(deadline=None)
def test_long_runs_of_spaces_have_the_ids_of_tiktoken(parts):
    """With the limit lowered, so that tiktoken itself can still encode the text."""
    text = "".join(word + space * number for word, space, number in parts)
    tokenizer = get_tokenizer("gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_SPACE", 3)
        patch.setattr(module, "_LONG_SPACES", re.compile(module._LONG_SPACES.pattern.replace("100000", "3")))
        assert tokenizer.encode(text) == tokenizer._encoding.encode_ordinary(text)
