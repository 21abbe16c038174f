"""The adapter gives lm-evaluation-harness the figures that are known, on tasks in the harness's own files, offline."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lm_eval", reason="pip install 'lm-eval>=0.4.13,<0.5'", exc_type=ImportError)

import lm_eval
from lm_eval._cli.run import Run
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model, model_registry
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, make_table

from diffuapriel.checkpoint import bundled
from diffuapriel.cli import main
from diffuapriel.data.tales import fill_window
from diffuapriel.evaluation.harness import DiffuAprielLM
from diffuapriel.evaluation.likelihood import rolling_windows
from diffuapriel.evaluation.masks import block_nats
from diffuapriel.tokenizer import get_tokenizer
from tests.evaluation.known_models import Knows, Letters, Lookup, even
from tests.evaluation.test_masks import one_number
from tests.sampling.models import block_model

TOKENIZER = get_tokenizer("gpt2-4k")

CHOICE = """
task: local_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
CLOZE = """
task: local_cloze
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
"""
ROLLING = """
task: local_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
GENERATE = """
task: local_generate
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 12
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def evaluate(tmp_path: Path):
    """evaluate(model, task file, documents) -> the task's figures."""

    def run(model: Any, task: str, documents: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        name = write_task(tmp_path, task, documents)
        tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
        report = lm_eval.simple_evaluate(model, tasks=[name], task_manager=tasks, bootstrap_iters=0, **options)
        assert report is not None
        assert name in make_table(report)  # as the command line prints it
        return report["results"][name]

    return run


def write_task(folder: Path, task: str, documents: list[dict[str, Any]]) -> str:
    """Write the YAML file of a task and its data; returns its name."""
    name = task.split()[1]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    where = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    lines = f"dataset_path: json\ndataset_kwargs: {json.dumps(where)}\ntest_split: test\n"
    (folder / f"{name}.yaml").write_text(task + lines)
    return name


def adapter(denoiser: Any, tokenizer: Any = TOKENIZER, **options: Any) -> DiffuAprielLM:
    return DiffuAprielLM((denoiser, tokenizer), **{"batch_size": 8, "device": "cpu", **options})


def ask(method: Any, *arguments: tuple[Any, ...]) -> list[Any]:
    return method([Instance("loglikelihood", {}, args, i) for i, args in enumerate(arguments)])


def test_the_harness_knows_the_model_by_its_name():
    assert get_model("diffuapriel") is DiffuAprielLM


def test_an_enumerated_model_s_likelihoods_are_its_means_over_all_orders():
    model = Lookup(5)
    answers = ("cad", "bbb", "dab")
    truth = [-model.cost_over_all_orders((0, 1), Letters().encode(answer)) for answer in answers]
    found = ask(adapter(model, Letters()).loglikelihood, *(("ab", answer) for answer in answers))
    assert [value for value, _ in found] == pytest.approx(truth, rel=1e-5)
    greedy = model.greedy_answer((0, 1), 3)
    assert [flag for _, flag in found] == [tuple(Letters().encode(answer)) == greedy for answer in answers]


def test_a_text_without_a_prompt_follows_the_end_of_another():
    model = Lookup(4, seed=1)
    truth = -model.cost_over_all_orders((Letters.eos_id,), Letters().encode("cad"))
    lm = adapter(model, Letters())
    assert ask(lm.loglikelihood, ("", "cad"))[0][0] == pytest.approx(truth, rel=1e-5)
    assert ask(lm.loglikelihood_rolling, ("cad",)) == pytest.approx([truth], rel=1e-5)


def test_a_text_longer_than_the_context_is_scored_by_the_chain_rule():
    model, letters = Lookup(3, seed=2), Letters()
    truth = -sum(
        model.cost_over_all_orders(prompt, answer)
        for prompt, answer in (((letters.eos_id,), (2, 0)), ((0,), (3, 1)), ((3, 1), (1,)))
    )
    lm = adapter(model, letters, max_length=3)
    assert ask(lm.loglikelihood_rolling, ("cadbb",)) == pytest.approx([truth], rel=1e-5)


def test_windows_are_cut_as_the_harness_cuts_them():
    for length in (3, 8):
        for size in range(1, 30):
            ids = list(range(size))
            theirs = map(make_disjoint_window, get_rolling_token_windows(ids, 99, length - 1, 1))
            ours = [(list(prompt), list(answer)) for prompt, answer in rolling_windows([99], ids, length)]
            assert [answer for _, answer in ours] == [answer for _, answer in theirs]


def test_multiple_choice_takes_the_answer_that_the_model_knows(evaluate):
    """It knows the right answer of three questions, and a wrong one of the fourth."""
    knows = Knows(["The sky is blue", "Snow is white", "Grass is green", "Coal is pink"], TOKENIZER)
    rows = [("The sky is", 0), ("Snow is", 1), ("Grass is", 2), ("Coal is", 3)]
    choices = ["blue", "white", "green", "black", "pink"]
    documents = [{"question": q, "choices": choices, "answer": a} for q, a in rows]
    found = evaluate(adapter(knows), CHOICE, documents)
    assert found["acc,none"] == found["acc_norm,none"] == 0.75


def test_a_cloze_task_gets_the_perplexity_of_an_even_model_and_the_greedy_answers_of_one_that_knows(evaluate):
    documents = [{"question": "Mia found a", "answer": "ball"}, {"question": "Snow is", "answer": "white"}]
    tokens = [len(TOKENIZER.encode(" " + document["answer"])) for document in documents]
    found = evaluate(adapter(even(TOKENIZER.vocab_size)), CLOZE, documents)
    mean = sum(tokens) / 2 * math.log(TOKENIZER.vocab_size - 1)
    assert math.log(found["perplexity,none"]) == pytest.approx(mean, rel=1e-5)
    knows = Knows(["Snow is white"], TOKENIZER)
    assert evaluate(adapter(knows), CLOZE, documents)["acc,none"] == 0.5


def test_rolling_perplexity_of_an_even_model_is_known(evaluate):
    """40 tokens in windows of 16; drawn, not enumerated: an even model has no Monte-Carlo noise."""
    texts = ["The quick brown fox jumps over the lazy dog. " * 4, "A b c."]
    found = evaluate(
        adapter(even(TOKENIZER.vocab_size), max_length=16, mc_num=20), ROLLING, [{"text": t} for t in texts]
    )
    nats = sum(len(TOKENIZER.encode(text)) for text in texts) * math.log(TOKENIZER.vocab_size - 1)
    size = sum(len(text.encode()) for text in texts)
    assert found["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["byte_perplexity,none"] == pytest.approx(math.exp(nats / size), rel=1e-5)


def test_generated_text_ends_at_the_stop_string_or_the_end_of_text(evaluate):
    knows = Knows(["Two and two are four. And more", "Snow is white", "Grass is red."], TOKENIZER)
    documents = [
        {"question": "Two and two are", "answer": "four"},
        {"question": "Snow is", "answer": "white"},
        {"question": "Grass is", "answer": "green"},
    ]
    assert evaluate(adapter(knows), GENERATE, documents)["exact_match,none"] == pytest.approx(2 / 3)


def test_a_model_of_blocks_has_exact_likelihoods_and_writes_block_by_block():
    model, letters = block_model("diffuapriel", Letters.vocab_size), Letters()
    lm = adapter(model, letters, block_length=4)
    answers = ["".join(letters) for letters in itertools.product("abcd", repeat=2)]
    found = ask(lm.loglikelihood, *(("ab", answer) for answer in answers))
    ids = [letters.encode("ab") + [i, j] for i in range(5) for j in range(5)]
    masked = torch.tensor([[False, False, True, True]]).expand(25, -1)
    exact = -block_nats(model, torch.tensor(ids), masked, letters.mask_id, 1).sum(1)
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-5)
    kept = [value for value, row in zip(exact.tolist(), ids) if letters.eos_id not in row]
    assert [value for value, _ in found] == pytest.approx(kept, abs=1e-5)
    (written,) = ask(lm.generate_until, ("ab", {"until": [], "max_gen_toks": 9}))
    assert len(written) <= 9 and set(written) <= set("abcd")
    with pytest.raises(ValueError, match="block_length is 3; this model was trained for 1, 4, 0"):
        adapter(model, letters, block_length=3)


WORDS = TOKENIZER.encode("one two three four five six seven eight")  # more than eight tokens


def first_canvas(prompt: list[int], max_length: int, **wanted: Any) -> tuple[list[int], int]:
    """What the denoiser sees first: the ids of the prompt, and the number of masks after them."""
    seen = []

    def denoise(ids, sigma, positions):
        seen.append(ids[0].tolist())
        return even(TOKENIZER.vocab_size)(ids, sigma, positions)

    lm = adapter(denoise, max_length=max_length, steps=1)
    ask(lm.generate_until, (TOKENIZER.decode(prompt), {"until": [], **wanted}))
    masks = seen[0].count(TOKENIZER.mask_id)
    assert seen[0][-masks:] == [TOKENIZER.mask_id] * masks and len(seen[0]) <= max_length
    return seen[0][:-masks], masks


def test_a_long_prompt_keeps_its_end_and_the_canvas_fits_the_context(caplog):
    assert first_canvas(WORDS[:6], 8, max_gen_toks=2) == (WORDS[:6], 2) and not caplog.text
    assert first_canvas(WORDS[:8], 8, max_gen_toks=3) == (WORDS[3:8], 3)
    assert "1 of 1 prompts lose their beginning: prompt and answer share 8 tokens (max_length)" in caplog.text
    assert "the longest would need 11" in caplog.text
    assert first_canvas(WORDS[:2], 8, max_gen_toks=8) == (WORDS[:2], 6)
    assert "max_gen_toks is 8, but prompt and answer share 8 tokens" in caplog.text


@given(
    tokens=st.integers(1, len(WORDS)), max_length=st.integers(2, 20), wanted=st.sampled_from([{}, {"max_gen_toks": 20}])
)
def test_a_prompt_is_kept_and_the_answer_gets_what_it_leaves_unless_max_gen_toks_fits(tokens, max_length, wanted):
    kept, masks = first_canvas(WORDS[:tokens], max_length, **wanted)
    if tokens < max_length:
        assert kept == WORDS[:tokens] and masks == max_length - tokens
    else:
        assert masks == max(1, max_length // 4) and kept == WORDS[tokens - (max_length - masks) : tokens]


def test_without_max_gen_toks_at_most_256_tokens_are_generated():
    assert first_canvas(WORDS[:3], 300) == (WORDS[:3], 256)


def test_a_negative_max_gen_toks_is_refused():
    with pytest.raises(ValueError, match="max_gen_toks is -1; it must be 1 or more"):
        first_canvas(WORDS[:2], 8, max_gen_toks=-1)


def test_a_prompt_that_does_not_fit_before_its_answer_is_cut_with_a_warning(caplog):
    lm = adapter(even(TOKENIZER.vocab_size), max_length=8, mc_num=1)
    (question, answer) = (TOKENIZER.decode(ids) for ids in (WORDS[:5], WORDS[5:8]))
    ask(lm.loglikelihood, (question, answer))
    assert not caplog.text
    ask(lm.loglikelihood, (question, answer), ("x " * 9, " y"))
    assert "1 of 2 prompts lose their beginning" in caplog.text


def test_auto_is_the_device_that_the_machine_has():
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert adapter(even(6), Letters(), device="auto")._device.type == found
    assert adapter(even(6), Letters(), device=None)._device.type == found
    with pytest.raises(ValueError, match="device is 'cuda:99', which cannot be used here"):
        adapter(even(6), Letters(), device="cuda:99")


def test_the_same_figures_come_out_twice_whatever_the_batch_size():
    texts = [("a" * 5, "bcadbcadbcad"), ("", "dcba" * 4), ("abcd", "ab")]

    def model(ids, sigma, positions):  # depends on all that is visible
        logits = (ids[:, None, :, None] + 1.0).mul(ids.new_tensor([1, 2, 3, 1, 2, 1])).sin().sum(2)
        return logits.expand(*ids.shape, -1)[positions]

    def figures(**options):
        lm = adapter(model, Letters(), mc_num=12, **options)
        scored = [value for value, _ in ask(lm.loglikelihood, *texts)]
        drawn = ask(lm.generate_until, ("ab", {"until": ["d"], "max_gen_toks": 9, "temperature": 1.0}))
        return [*scored, *ask(lm.loglikelihood_rolling, ("abcdabcd",))], drawn

    assert figures() == figures()
    assert figures(batch_size=3)[0] == pytest.approx(figures()[0], rel=1e-5)
    assert figures(seed=1)[0] != figures()[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "many"}, "batch_size is 'many'; it must be a whole number, 1 or more, or 'auto'"),
        ({"mc_num": 0}, "mc_num is 0"),
        ({"max_length": 1}, "max_length is 1; it must be a whole number, 2 or more"),
        ({"max_length": 0, "batch_size": "auto"}, "max_length is 0"),
        ({"strategy": "greedy"}, "strategy is 'greedy'"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_scored(options, message):
    with pytest.raises(ValueError, match=message):
        adapter(even(6), Letters(), **options)


def test_the_batch_size_may_be_text_or_auto():
    assert adapter(even(6), Letters(), batch_size="4").batch_size == 4
    assert adapter(even(6), Letters(), batch_size="auto", max_length=128).batch_size == 128
    wide = get_tokenizer("gpt2")  # 50,258 logits a token: 5,341 tokens to a batch
    assert adapter(even(6), wide, batch_size="auto", max_length=1024).batch_size == 5
    assert adapter(even(6), wide, batch_size="auto", max_length=8192).batch_size == 1


def test_a_bundled_checkpoint_is_evaluated_by_its_name(evaluate):
    """The arguments are those that the command line of the harness makes of `diffuapriel harness`."""
    found = evaluate(
        "diffuapriel",
        CHOICE,
        [{"question": "Mia found a", "choices": ["red ball", "qu qu"], "answer": 0}],
        model_args={"pretrained": "tales-diffuapriel", "mc_num": 4},
        batch_size="auto",
        device="auto",
    )
    assert found["acc,none"] == 1


@pytest.mark.parametrize(
    "name", [name for name in bundled() if name.startswith("tales") and not name.endswith("small")]
)
def test_a_story_in_the_window_of_its_model_costs_what_evaluate_and_score_text_say(name):
    """Within their errors, and exactly what `score_answers` says of the window with the same seed."""
    lm = DiffuAprielLM(name, max_length=24, mc_num=48, seed=3, batch_size=16, device="cpu")
    story = "Mark has a red hat. Mark is happy."
    window = fill_window(lm.tok_encode(story), 24, lm.eot_token_id)
    assert len(window) == 24 and window[-2:] == 2 * [lm.eot_token_id]
    (rolling,) = ask(lm.loglikelihood_rolling, (story,))
    found = one_number(lm.denoiser, window, lm.tokenizer, 48)
    assert -rolling == pytest.approx(found[2][0], rel=1e-5)
    for (a, error_a), (b, error_b) in itertools.combinations(found, 2):
        assert abs(a - b) < 4 * math.hypot(error_a, error_b)
        assert math.hypot(error_a, error_b) < 0.3 * a


def test_a_text_of_tales_that_is_longer_than_a_window_is_cut_and_an_empty_one_is_certain():
    lm = adapter(Lookup(3, seed=2), Letters(), max_length=3)
    lm.fills_windows = True
    pairs = (((), (2, 0, 3)), ((3,), (1, 1)), ((1, 1), (Letters.eos_id,)))
    truth = -sum(lm.denoiser.cost_over_all_orders(prompt, answer) for prompt, answer in pairs)
    assert ask(lm.loglikelihood_rolling, ("cadbb",), ("",)) == pytest.approx([truth, 0.0], rel=1e-5)


def test_the_command_hands_everything_on_to_the_harness_s_own(monkeypatch):
    ran = []
    monkeypatch.setattr(Run, "_execute", staticmethod(ran.append))
    command = "harness tales-diffuapriel --tasks lambada_openai,wikitext,piqa --limit 5 --model_args mc_num=4"
    assert main(command.split()) == 0
    (args,) = ran
    assert args.model == "diffuapriel" and args.tasks == ["lambada_openai", "wikitext", "piqa"]
    assert args.model_args == {"pretrained": "tales-diffuapriel", "mc_num": 4}
    assert args.limit == 5 and args.batch_size == args.device == "auto"
    assert main([*command.split(), "--batch_size", "16", "--device", "cpu"]) == 0
    assert ran[1].batch_size == "16" and ran[1].device == "cpu"
    assert "diffuapriel" in model_registry
