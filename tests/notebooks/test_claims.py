"""What the lessons say about their own results holds in the last full run (`make lessons`), where there is one.

A lesson prints the numbers; its text says what they show. Each claim here is a pattern of printed text and what must be
true of the numbers in it. Timings are nobody's claim: they are the machine's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
import torch

from diffuapriel import Denoiser, load_checkpoint
from diffuapriel.interpret.half_life import step_sizes
from diffuapriel.tales import language as tales
from tests.notebooks.test_lessons import build, execute

Claim = tuple[str, str, Callable[..., bool], str]  # lesson, pattern, what holds of its numbers, the sentence
NAMES = r"\ntrue stories .*\[([\d.]+), [\d.]+\](?s:.*?)\nrewarded .*first word .*, ([\d.]+)\]"
LEASH = r"{} +gain \+(\d+) percentage points, apart from imitation; .* \[\+([\d.]+),"
TAIL = r"no blocks +[\d.]+ calls +(\d+) %.*\nend given +[\d.]+ calls +(\d+) %"
CLAIMS: tuple[Claim, ...] = (
    ("01", r"of 100 stories, \d+ are grammatical and (\d+)", lambda n: n >= 50, "most of its stories are correct"),
    ("01", r"excess +([\d.]+) nats per story", lambda n: 0 < n < 4, "close to the entropy, and not below it"),
    ("01", r"\n 1 steps: +(\d+) % grammatical", lambda n: n < 10, "in a single step almost none"),
    ("01", r"([\d.]+)% of the tokens agree with the package", lambda n: n > 95, "both samplers agree"),
    ("01", r"\n(\d+) end-of-text tokens before any word", lambda n: n >= 1, "the end is settled first"),
    ("01", r"\n (·) \| · \| ", lambda first: first == "·", "the end of the row is revealed first"),
    (
        "02",
        r"\n *(\d+)% have a half-life of 0 to 5 .*\n *(\d+)% .*\n *(\d+)% .*\n *(\d+)% have .* or more tokens",
        lambda *shares: min(shares) > 0,
        "some heads hold a word, some a sentence, some the whole story",
    ),
    ("02", r"largest loss .*keeps (\d+)% .* and (\d+)% elsewhere", lambda a, b: b - a >= 10, "a head that forgets"),
    ("02", r"largest factor .*keeps (\d+)% .* and (\d+)% elsewhere", lambda a, b: b - a < 10, "the ratio is a trap"),
    (
        "03",
        r"one direction +girls ([\d.]+) +boys ([\d.]+)",
        lambda g, b: abs(g - b) < 0.2,
        "either name, equally likely",
    ),
    ("03", r"both directions +girls ([\d.]+)", lambda g: g > 0.95, "both directions know the name"),
    (
        "03",
        r"one direction +reached .* ([\d.]+)\n(?s:.*?)both directions +reached .* ([\d.]+)\n",
        lambda one, both: abs(one - both) < 0.05,
        "at the end both pay the same",
    ),
    ("03", r"The worst lie costs ([\d.]+) nats per mask: this model hardly", lambda n: n < 0.05, "it hardly listens"),
    (
        "03",
        r"of 128 frequencies (\d+) turn .* and (\d+) move",
        lambda a, b: a < 5 and b > 50,
        "most features hardly move",
    ),
    (
        "04",
        r"\nno edges .*, (\d+)%\](?s:.*?)\nedges .*\[(\d+)%, ",
        lambda without, with_edges: with_edges > without + 20,
        "a vector at both ends mends most of it",
    ),
    ("05", r"mistake planted +0 % before, +(\d+) % after", lambda n: n >= 50, "the rounds mend the mistake"),
    ("05", TAIL, lambda without, given: given > without + 15, "the tail of a row costs calls"),
    ("05", r"control +100 % before, +(\d+) % after", lambda n: n >= 60, "and break little else"),
    (
        "05",
        r"\nend given .*\[(\d+)%,.*\nblocks of 8 .* (\d+)%\].*\nblocks of 4 .* (\d+)%\]",
        lambda given, eight, four: given > max(eight, four),
        "blocks are no remedy in a short row",
    ),
    ("05", r"\nhad +(\d+) stories, +(\d+) right", lambda n, right: right < n / 2, "stories with numbers go wrong"),
    (
        "05",
        r"\nlow_confidence +16.0 calls: .*\[(\d+)%,.*\n.* (\d+)%\]\n.*\nremdm +[56]\d\.\d calls.* (\d+)%\]",
        lambda surest, ancestral, remdm: surest > max(ancestral, remdm),
        "the surest first is ahead with a quarter of the calls",
    ),
    ("05", r"\n100 stories, (\d+) different", lambda n: n == 1, "at temperature 0 there is one story"),
    (
        "05",
        r"\nteacher +([\d.]+) calls.* entropy ([\d.]+)\n.*weight 0 .*\n.*\nstudent.*1 +([\d.]+) calls.* ([\d.]+)\n",
        lambda calls, entropy, fewer, less: fewer < calls - 1 and less < entropy - 0.5,
        "certainty saves calls and takes variety",
    ),
    (
        "05",
        r"\nteacher +[\d.]+ calls .*\[(\d+)%, .*\n.*weight 0 .* (\d+)%\].*\n.*\n.*weight 1 .* (\d+)%\]",
        lambda teacher, same, sure: min(same, sure) >= teacher,
        "the student of weight 0 is its teacher's equal, that of weight 1 no less consistent",
    ),
    ("05", r"at 1,000 steps, float32: ([\d.]+)% rare", lambda n: n < 10, "float32 cuts rare tokens"),
    ("07", r"\n 64 draws: .* worth ([\d.]+) times the draws", lambda n: n > 1, "stratified draws do better"),
    (
        "07",
        r"\n([\d.]+) of 50 right.*\n.*with one draw instead of 4: (\d+)% right",
        lambda right, alone: 2 * right > alone + 3,
        "one draw decides worse than four",
    ),
    ("07", r"exp\(-NELBO\) sums to +([\d.]+)", lambda n: n < 1, "some probability is lost"),
    ("07", r"dull .*exact cost .*: (below) the entropy", lambda word: word == "below", "the dull writer is dull"),
    (
        "08",
        r"training has gained ([\d.]+) bits per byte: what it learned carries",
        lambda n: n > 0.3,
        "it carries over",
    ),
    (
        "08",
        r"xz, which forgets nothing: ([\d.]+) and ([\d.]+)",
        lambda twin, strangers: twin < strangers - 0.5,
        "a compressor shows the leak at once",
    ),
    ("09", r"same bit for bit: (\d+) of 48", lambda n: n == 32, "earlier blocks notice nothing"),
    ("09", r"S =  1: .*, ([\d.]+)\]\n.*\nS = 12: .*\[([\d.]+),", lambda a, b: a < b, "the bound is tighter at S = 1"),
    ("09", r"\n +1 +([\d.]+) .* %\n +4 +([\d.]+) ", lambda one, four: four < one, "blocks of 4 need fewer passes"),
    (
        "09",
        r"(\d+) of 20 stories are the same",
        lambda n: n >= 19,
        "the text is that of single tokens, but for rounding",
    ),
    ("09", r": ([\d.]+) one token at a time, ([\d.]+) with", lambda one, n: n < one / 2, "fewer passes"),
    ("09", r"\n4 only .*S=4: ([\d.]+) .*S=12: ([\d.]+)", lambda a, b: b > a + 5, "it fails where it was not trained"),
    (
        "09",
        r"mixed: 1, 4 and 12 .*S=1: ([\d.]+) .*S=2: ([\d.]+) .*S=4: ([\d.]+) .*S=12: ([\d.]+)",
        lambda one, two, four, twelve: max(one, two, four, twelve) < 1.3 * one,
        "the mixed model holds at its block lengths, and pays little between them",
    ),
    (
        "09",
        r"mixed: 1, 4 and 12 .*S=4: ([\d.]+) .*\n4 only .*S=4: ([\d.]+) ",
        lambda mixed, narrow: abs(mixed - narrow) < 1,
        "at S = 4 both are about as good",
    ),
    ("10", r"left to right, one call +(\d+) % ", lambda n: 35 < n < 65, "from the left the name is a guess"),
    (
        "10",
        r"diffusion, one call .* (\d+)\]\n.*\nleft to right, \d+ calls .*\[(\d+),",
        lambda one, all_: one < all_,
        "the twin with all its calls is more reliable",
    ),
    ("10", r"diffusion, one call .*\[(\d+),.*\n.* (\d+)\]", lambda a, b: a > b, "in one call diffusion is ahead"),
    ("10", r"on new stories: -[\d.]+ nats \[-[\d.]+, -([\d.]+)\]", lambda n: n > 0, "scarce text favors diffusion"),
    (
        "11",
        r"N = 4, 16 pairs: (\d+) % recalled\nN = 16, 64 pairs: (\d+) %",
        lambda small, large: abs(small - large) < 8,
        "four times the state carries about four times the pairs",
    ),
    ("11", r"N =  4, 64 pairs .*beta 100: +(\d+) %", lambda n: n == 100, "with sharp weights all pairs come back"),
    ("11", r"\nattention .*\b64 pairs: +(\d+) %", lambda n: n >= 97, "attention does not notice the number of pairs"),
    (
        "11",
        r"\nMamba, N = 64 +4 pairs: +(\d+) %.*\b64 pairs: +(\d+) %",
        lambda few, many: few > many + 10,
        "the curves of the states fall",
    ),
    ("11", r"Mamba, N = 4 .*, ([\d.]+)\]\n.*N = 64 .*\[([\d.]+),", lambda a, b: a < b, "a larger state recalls more"),
    ("11", r"Mamba, N = 4 .*, ([\d.]+)\](?s:.*)\nhybrid.*\[([\d.]+),", lambda a, b: a < b, "attention closes the gap"),
    ("12", r"with flips: [\d,]+, ([\d.]+) times", lambda n: n == 3, "flips treble the bytes of a scan"),
    ("12", r"PyTorch [\d.]+ MB: ([\d.]+) times", lambda n: 5 < n < 15, "PyTorch moves about nine times the bytes"),
    ("13", r"\nimitation +(\d+)% consistent", lambda n: 20 <= n <= 50, "something is left to learn"),
    (
        "13",
        r"\ngain \+(\d+) percentage points; the intervals are apart",
        lambda n: n > 20,
        "the reward raises the share",
    ),
    ("13", r"the drift: \+[\d.]+ nats per true story \[\+([\d.]+)", lambda n: n > 3, "true stories cost more"),
    ("13", NAMES, lambda true, rewarded: rewarded < true, "it gives up names"),
    ("13", LEASH.format("0.3"), lambda n, low: n > 10 and low > 0, "a leash keeps some of the gain, and saves nats"),
    ("13", LEASH.format("1.0"), lambda n, low: n > 5 and low > 0, "a tighter leash gains, too"),
    (
        "13",
        r"\ngain \+(\d+) (?s:.*)\nleash 0.3 +gain \+(\d+) (?s:.*)\nleash 1.0 +gain \+(\d+) ",
        lambda free, loose, tight: free > loose > tight,
        "the tighter the leash, the smaller the gain",
    ),
    (
        "13",
        r"\nleash 0.3 +true stories \+([\d.]+) (?s:.*)\nleash 1.0 +true stories \+([\d.]+) ",
        lambda loose, tight: loose > tight,
        "the tighter the leash, the smaller the drift",
    ),
)


def printed(lesson: str) -> str:
    """Everything that the last full run of a lesson printed; skips the test where there is none."""
    (source,) = [source for source in build.sources() if source.stem.startswith(lesson)]
    run = execute.executed(source)
    if run is None or run.metadata.get("shortened"):
        pytest.skip(f"lesson {lesson} has not been run whole: `make lessons ARGS={lesson}`")
    outputs = [output for cell in run.cells for output in cell.get("outputs", [])]
    return "\n" + "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize(("lesson", "pattern", "holds", "claim"), CLAIMS, ids=[f"{c[0]}: {c[3]}" for c in CLAIMS])
def test_the_run_bears_out(lesson: str, pattern: str, holds: Callable[..., bool], claim: str) -> None:
    found = re.search(pattern, printed(lesson))
    assert found, f"{claim}: nothing printed matches {pattern}"
    values = [float(value) if re.fullmatch(r"[\d.]+", value) else value for value in found.groups()]
    assert holds(*values), f"{claim}: {found.group()}"


@pytest.mark.parametrize("number", build.seen.SEEN, ids=[f"{n.lesson}: {n.what}" for n in build.seen.SEEN])
def test_the_teacher_s_table_holds_in_the_run(number) -> None:
    found = build.seen.value(number, printed(number.lesson))
    assert number.low <= found <= number.high, f"{number.what} is {found}"


def test_a_number_that_is_not_printed_is_missed() -> None:
    with pytest.raises(ValueError, match="lesson 01 prints nothing that matches excess"):
        build.seen.value(build.seen.SEEN[0], "no number")
    assert build.seen.value(build.seen.SEEN[0], "\nexcess 1.25 nats per story") == 1.25


def survival(model: Denoiser, ids: torch.Tensor) -> torch.Tensor:
    """The share of its memory that each forward head keeps at each token of ids (length,): (layers, length, heads)."""
    steps: list[torch.Tensor] = []
    mixers = [block.mixer for block in model.blocks]
    hooks = [
        mixer.register_forward_pre_hook(lambda mixer, given: steps.append(step_sizes(mixer, given[0])[0]))
        for mixer in mixers
    ]
    with torch.no_grad():
        model.hidden(ids[None], torch.zeros(1))
    for hook in hooks:
        hook.remove()
    rates = torch.stack([-mixer.A_log.detach().exp() for mixer in mixers])[:, None, 0]
    return torch.exp(torch.stack(steps)[:, :, 0] * rates)


def test_a_head_of_the_bundled_model_forgets_at_full_stops() -> None:
    """Lesson 02 shows the forward head that loses the largest share of its memory there, and it does lose it."""
    model, tokenizer = load_checkpoint("tales-diffuapriel")
    rng = random.Random(3)
    stories = [torch.tensor(tokenizer.encode(tales.generate(3, rng))) for _ in range(3)]
    survives = torch.cat([survival(model, story) for story in stories], dim=1)
    stop = torch.cat(stories) == tokenizer.encode(".")[0]
    lost = survives[:, ~stop].mean(1) - survives[:, stop].mean(1)
    assert lost.max() > 0.1


def test_the_lines_that_lesson_12_quotes_are_those_of_the_package_s_kernel() -> None:
    (source,) = [source for source in build.sources() if source.stem.startswith("12")]
    text = source.read_text(encoding="utf-8").partition("| yours | the package's |")[2].partition("\n#\n")[0]
    rows = [row.split("|") for row in text.splitlines()[2:]]
    kernel = (build.NOTEBOOKS.parent / "diffuapriel" / "ops" / "triton" / "scan.py").read_text(encoding="utf-8")
    assert len(rows) >= 8
    for _, _, quoted, *_ in rows:
        assert quoted.strip().strip("`") in kernel, quoted
