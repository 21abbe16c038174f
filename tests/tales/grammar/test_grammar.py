"""The grammar machinery, on grammars small enough to see through."""

import math
import random

import pytest

from diffuapriel.tales.grammar import measures
from diffuapriel.tales.grammar import parser as reading
from diffuapriel.tales.grammar.compiler import compile_grammar
from diffuapriel.tales.grammar.grammar import Kind, Lexicon, WordClass, maybe, pick, split_pieces
from tests.tales.exhaustive import enumerate_texts, length_bounds
from tools.grammar_ambiguity import find_ambiguity, find_bad_seam

LEXICON = Lexicon(
    kinds={
        "person": Kind(
            {"": {"Ann": "Ann", "Bo": "Bo", "Cy": "Cy"}, "he": {"Ann": "she", "Bo": "he", "Cy": "he"}},
            stray={"he": ["they"]},
        ),
        "number": Kind({"": {1: "one", 2: "two", 3: "three", 4: "four"}}),
        "fruit": Kind({"": {"fig": "fig", "nut": "nut"}, "s": {"fig": "figs", "nut": "nuts"}}),
        "room": Kind({"": {"hall": "in the hall", "loft": "in the loft"}}),
        "corner": Kind({"": {"sofa": "on the sofa", "beam": "on the beam", "rug": "on the rug"}}),
    },
    classes={
        "person": WordClass("person", ("Ann", "Bo", "Cy")),
        "number": WordClass("number", (2, 3)),
        "part": WordClass("number", given={2: (1,), 3: (1, 2)}),
        "fruit": WordClass("fruit", ("fig", "nut")),
        "room": WordClass("room", ("hall", "loft")),
        "corner": WordClass("corner", given={"hall": ("sofa", "rug"), "loft": ("beam", "rug", "sofa")}),
    },
)
TALE = [
    "{a:person} had {n:number} {fruit*n:fruit}",
    maybe(0.3, "and {b:person!a} had none"),
    ".",
    pick((3, "{a.he} ate {k:part@n}."), (1, "{a} was {room:room}, {corner:corner@room}.")),
    pick("So it was.", "{extra:fruit} for {a}!"),
]


def small():
    return compile_grammar(TALE, LEXICON)


def test_probabilities_of_all_texts_sum_to_one():
    texts = dict(enumerate_texts(small()))
    assert math.fsum(map(math.exp, texts.values())) == pytest.approx(1, abs=1e-12)


def test_the_count_is_the_number_of_texts():
    grammar = small()
    texts = list(enumerate_texts(grammar))
    assert measures.count(grammar) == len(texts) == len(dict(texts))


def test_the_entropy_is_that_of_all_texts():
    grammar = small()
    whole = -math.fsum(p * math.exp(p) for _, p in enumerate_texts(grammar))
    assert measures.entropy(grammar) == pytest.approx(whole, abs=1e-12)


def test_the_log_probability_of_every_text_is_the_one_it_was_made_with():
    grammar = small()
    for text, log_p in enumerate_texts(grammar):
        assert reading.log_prob(grammar, text) == pytest.approx(log_p, abs=1e-12)


def test_sampling_follows_the_probabilities():
    grammar = small()
    rng = random.Random(0)
    n = 20_000
    seen = sum(grammar.sample(rng).startswith("Ann had two figs.") for _ in range(n)) / n
    expected = 0.7 / (3 * 2 * 2)
    assert abs(seen - expected) < 5 * math.sqrt(expected / n)


def test_bounds_on_the_length_hold():
    grammar = small()
    lengths = [len(text) for text, _ in enumerate_texts(grammar)]
    low, high = length_bounds(grammar, len)
    assert low <= min(lengths) and max(lengths) <= high
    assert low > 30 and high < 90


def test_a_number_decides_between_singular_and_plural():
    grammar = compile_grammar(["{n:number} take {k:part@n} is {m:n-k} {fruit*m:fruit}."], LEXICON)
    texts = {text for text, _ in enumerate_texts(grammar)}
    assert "three take one is two figs." in texts
    assert "three take two is one fig." in texts
    assert len(texts) == 6


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("Ann had two figs. he ate one. So it was.", "'he' does not match Ann: expected 'she'", "he ate"),
        ("Ann had two figs. they ate one. So it was.", "'they' does not match Ann", "they"),
        ("Ann had two fig. she ate one. So it was.", "'fig' does not match 'two'", "fig."),
        (
            "Ann had two figs and Ann had none. she ate one. So it was.",
            "'Ann' was already used",
            "Ann had none",
        ),
        (
            "Ann had two figs. she ate two. So it was.",
            "'two' is not what came before: expected 'one'",
            "two. So",
        ),
        ("Ann had three figs. she ate four. So it was.", "'four' does not go with 'three'", "four"),
        (
            "Ann had two figs. Bo was in the hall, on the rug. So it was.",
            "'Bo' is not what came before",
            "Bo",
        ),
        (
            "Ann had two figs. Ann was in the hall, on the beam. So it was.",
            "does not go with 'in the hall'",
            "on the beam",
        ),
    ],
)
def test_a_broken_agreement_is_named_where_it_is(text, message, at):
    grammar = small()
    walk = reading.read(grammar, text)
    assert not isinstance(walk, reading.Failure)
    failure = reading.follow(grammar, walk)
    assert isinstance(failure, reading.Failure)
    assert message in failure.message
    assert text[failure.position :].startswith(at)
    assert reading.log_prob(grammar, text) == -math.inf


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("", "the story breaks off: expected 'Ann', 'Bo', 'Cy'", 0),
        ("Ann had two", "breaks off: expected 'fig', 'figs', 'nut', 'nuts'", 11),
        ("Ann has two figs.", "'has' does not fit here: expected 'had'", 4),
        ("Ann had two figs. she ate one. So it was. So", "'So' does not fit here: expected 'the end'", 42),
        ("Ann had two figs. Ann was in the barn.", "'barn' does not fit here: expected 'hall', 'loft'", 33),
        (" Ann had two figs.", "before 'Ann' no space is due", 1),
        ("Ann had two figs.she ate one.", "before 'she' a space is due", 17),
        ("Ann  had", "' ' does not fit here", 4),
        ("\u65e5", "does not fit here", 0),
    ],
)
def test_broken_syntax_is_named_where_it_is(text, message, position):
    failure = reading.read(small(), text)
    assert isinstance(failure, reading.Failure)
    assert message in failure.message and failure.position == position


def test_pieces_make_the_text_again():
    text = 'Tom\'s "odd" text_: 3 ½, \u65e5\u672c, \t tabs\n\nand  spaces '
    assert "".join(split_pieces(text)) == text


@pytest.mark.parametrize(
    "expression",
    [
        pick("one fig", "one fig"),
        pick("{a:person} sat.", "{b:person} sat."),
        pick("{a:person} sat.", "Ann sat."),
        ["So", maybe(0.5, "so"), maybe(0.5, "so"), "it was."],
        ["So", pick("", ""), "it was."],
        [pick("so", "so it"), pick("it was", "was")],
    ],
)
def test_a_text_with_two_readings_is_found(expression):
    assert find_ambiguity(compile_grammar(expression, LEXICON)) is not None


@pytest.mark.parametrize(
    "expression",
    [
        TALE,
        pick("{a:person} sat.", "{b:person} stood."),
        ["So", maybe(0.5, "so"), "it was."],
        [pick("so", "so it"), pick("it was", "went")],
    ],
)
def test_texts_with_one_reading_are_proved_so(expression):
    assert find_ambiguity(compile_grammar(expression, LEXICON)) is None


def test_words_that_would_run_together_are_found():
    assert find_bad_seam(compile_grammar("{a:person}s sat.", LEXICON)) in ("Anns", "Bos", "Cys")
    assert find_bad_seam(small()) is None


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{a} sat.", "no register is called 'a'"),
        ("{a:ghost} sat.", "'ghost' is neither a word class nor a register"),
        ("{a:person} and {b:corner@a!}.", "is not of the form"),
        ("{a:person} and {a:fruit}.", "already holds another kind"),
        ("{a:person} and {a.his} hat.", "a person has no form 'his'"),
        ("{a:person} was {c:corner}.", "depends on another register"),
        ("{a:person} was {c:fruit@a}.", "depends on no other register"),
        (["", maybe(0.5, "{a:person} sat"), "and {a} stood."], "reached before a is bound"),
    ],
)
def test_a_faulty_template_is_refused_when_it_is_compiled(expression, message):
    with pytest.raises(ValueError, match=message):
        compile_grammar(expression, LEXICON)


def test_a_slot_that_cannot_be_filled_says_so():
    grammar = compile_grammar("{a:person} {b:person!a} {c:person!a!b} {d:person!a!b!c}", LEXICON)
    with pytest.raises(ValueError, match="d:person"):
        grammar.sample(random.Random(0))
