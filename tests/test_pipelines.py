"""The pipeline: one call from text to text, with the defaults of the command line and the arguments of diffusers."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch

import diffuapriel
from diffuapriel import cli
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.commands.console.terminal import printable
from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.pipelines import TextDiffusionPipeline, _texts, pipeline
from diffuapriel.sampling.writer import WrittenBlock, write_blocks
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace
from tests.sampling.models import block_model

TOKENIZER = get_tokenizer("gpt2-4k")
STORY = "Mia found a [MASK:4]."


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 1, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    return Denoiser(ModelConfig("diffuapriel", vocab_size=4098, tokenizer="gpt2-4k", **shape)).eval()


@pytest.fixture
def pipe(model: Denoiser) -> TextDiffusionPipeline:
    return TextDiffusionPipeline(model, TOKENIZER, name="tiny")


def test_a_bundled_checkpoint_fills_a_sentence() -> None:
    pipe = diffuapriel.pipeline("tales-diffuapriel", device="cpu")
    output = pipe("Mia found a [MASK:6].")
    (text,) = output.texts
    assert text.startswith("Mia found a") and text.endswith(".") and "[MASK]" not in text
    assert str(output) == text and output.traces is None
    assert "tales-diffuapriel" in repr(pipe) and pipe.device.type == "cpu"


def test_the_defaults_are_those_of_the_command_line() -> None:
    command = vars(cli.build_parser().parse_args(["sample"]))
    names = {"num_inference_steps": "steps"}
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(TextDiffusionPipeline.__call__).parameters.items()
        if names.get(name, name) in command and name != "seed"
    }
    assert len(defaults) == 13
    assert defaults == {name: command[names.get(name, name)] for name in defaults}


def test_it_writes_what_the_command_line_writes(model: Denoiser, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "m", model, card="# m")
    words = ["--checkpoint", str(tmp_path / "m"), "--samples", "2", "--seed", "3", "--steps", "4"]
    assert cli.main(["sample", STORY, *words]) == 0
    output = pipeline(tmp_path / "m", "cpu")(STORY, num_samples=2, seed=3, num_inference_steps=4)
    assert capsys.readouterr().out == str(output) + "\n"


def test_without_text_it_writes_from_nothing(pipe: TextDiffusionPipeline) -> None:
    trace = pipe(num_inference_steps=4, return_trace=True).traces[0]
    assert not any(trace.fixed) and len(trace.fixed) == 128
    assert len(pipe(length=9, num_inference_steps=4, return_trace=True).traces[0].fixed) == 9


@pytest.mark.parametrize(("trained", "written"), [(24, 24), (512, 128)])
def test_from_nothing_it_writes_no_more_than_a_row_of_its_training(model, tmp_path, trained: int, written: int) -> None:
    save_checkpoint(tmp_path / "m", model, card="# m", extra={"recipe": {"length": trained}})
    trace = pipeline(tmp_path / "m", "cpu")(num_inference_steps=2, return_trace=True).traces[0]
    file = tmp_path / "trace.json"
    assert cli.main(["sample", "--checkpoint", str(tmp_path / "m"), "--steps", "2", "--trace", str(file)]) == 0
    assert len(trace.fixed) == len(Trace.from_json(file.read_text()).fixed) == written


def test_a_prompt_is_continued_up_to_the_length(pipe: TextDiffusionPipeline) -> None:
    output = pipe("Once upon a time", length=12, num_inference_steps=4, return_trace=True)
    assert output.texts[0].startswith("Once upon a time")
    assert len(output.traces[0].final) == 12 and sum(output.traces[0].fixed) == len(
        TOKENIZER.encode("Once upon a time")
    )


def test_several_texts_and_samples_come_in_order_and_differ(pipe: TextDiffusionPipeline) -> None:
    texts = [STORY, "Max [MASK:3]", "[MASK:3] Max"]
    output = pipe(texts, num_samples=2, num_inference_steps=4)
    assert len(output.texts) == 6 and len(set(output.texts)) == 6
    assert [text[:3] for text in output.texts[:4]] == ["Mia", "Mia", "Max", "Max"]
    assert all(text.endswith(" Max") for text in output.texts[4:])
    assert output.texts[:2] == pipe(STORY, num_samples=2, num_inference_steps=4).texts


def test_same_seed_same_texts_with_and_without_traces_another_seed_others(
    pipe: TextDiffusionPipeline,
) -> None:
    ask = {"length": 16, "num_samples": 3, "num_inference_steps": 8}
    first = pipe(**ask, seed=5)
    assert first.texts == pipe(**ask, seed=5).texts == pipe(**ask, seed=5, return_trace=True).texts
    assert first.texts != pipe(**ask, seed=6).texts
    drawn = [pipe(**ask, generator=torch.Generator().manual_seed(1)).texts for _ in range(2)]
    assert drawn[0] == drawn[1] != first.texts


def test_a_trace_records_every_step_and_survives_a_file(pipe: TextDiffusionPipeline) -> None:
    output = pipe(STORY, num_inference_steps=3, temperature=0.5, seed=2, return_trace=True)
    (trace,) = output.traces
    assert trace.text == output.texts[0] and len(trace.frames) == 4
    kept = {name: trace.meta[name] for name in ("model", "architecture", "steps", "temperature", "seed")}
    assert kept == {
        "model": "tiny",
        "architecture": "diffuapriel",
        "steps": 3,
        "temperature": 0.5,
        "seed": 2,
    }
    again = Trace.from_json(trace.to_json())
    assert again.frames == trace.frames and again.text == trace.text


def test_end_of_text_is_not_shown(pipe: TextDiffusionPipeline) -> None:
    end = [TOKENIZER.eos_id]
    ids = [*TOKENIZER.encode("One."), *end * 2, *TOKENIZER.encode("Two."), *end * 3]
    assert pipe._text(ids) == "One.\n\nTwo."


# The callback


def test_the_callback_sees_every_step_in_order(pipe: TextDiffusionPipeline) -> None:
    seen = []

    def look(pipe_, step, timestep, kwargs):
        assert pipe_ is pipe and kwargs["input_ids"].shape == kwargs["transfer_index"].shape
        masks = int((kwargs["input_ids"] == TOKENIZER.mask_id).sum())
        assert kwargs["transfer_index"].sum() == len(kwargs["frame"].revealed)
        seen.append((kwargs["index"], step, masks, timestep))
        return kwargs

    output = pipe([STORY, "[MASK:2] Max"], num_inference_steps=2, block_length=0, callback_on_step_end=look)
    assert [entry[:3] for entry in seen] == [(0, 0, 2), (0, 1, 0), (1, 0, 1), (1, 1, 0)]
    assert [entry[3] for entry in seen[:2]] == sorted((entry[3] for entry in seen[:2]), reverse=True)
    assert output.texts == pipe([STORY, "[MASK:2] Max"], num_inference_steps=2, block_length=0).texts


def test_the_callback_can_stop_the_call_and_what_is_unfinished_keeps_its_masks(
    pipe: TextDiffusionPipeline,
) -> None:
    def stop(pipe_, step, timestep, kwargs):
        pipe_.interrupt = step == 1

    ask = {"num_samples": 2, "num_inference_steps": 4}
    output = pipe("[MASK:4] Max", **ask, callback_on_step_end=stop, return_trace=True)
    assert [text.count("[MASK]") for text in output.texts] == [2, 4]
    assert [len(trace.frames) for trace in output.traces] == [3, 1]
    assert "[MASK]" not in str(pipe("[MASK:4] Max", **ask)), "the next call starts afresh"


# Bad input


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": []}, "text is an empty list; give at least one text"),
        ({"text": 3}, "the text must be a string, not int"),
        ({"text": ["Mia", None]}, "the text must be a string, not NoneType"),
        ({"text": "[MASK:x]"}, "MASK:x"),
        ({"text": "Mia found a hat", "length": 2}, "2"),
        ({"length": 0}, "the length is 0 tokens; permitted: 1 to 65,536"),
        (
            {"num_inference_steps": 0},
            "num_inference_steps is 0; it must be a whole number from 1 to 65,536",
        ),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; it must be a whole number"),
        ({"num_samples": 0}, "num_samples is 0; it must be a whole number, 1 or more"),
        ({"strategy": "magic"}, "strategy is 'magic'; permitted: ancestral"),
        ({"temperature": -1}, "temperature is -1.0; "),
        ({"block_start": "middle"}, "block_start is 'middle'; permitted: prompt, zero"),
        ({"factor": -1}, "factor is -1.0; "),
        ({"facto": 1}, "unexpected keyword argument 'facto'"),
        ({"top_p": 0}, "top_p is 0.0; "),
        ({"schedule": "linear"}, "schedule is 'linear'; permitted: log-linear"),
        ({"seed": -1}, "seed is -1; "),
        ({"seed": 1, "generator": torch.Generator()}, "seed is 1 and a generator is given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_by_name(pipe: TextDiffusionPipeline, given: dict, said: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        pipe(**given)
    assert said in str(error.value)


def test_an_unknown_model_or_device_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'nowhere'.*bundled"):
        pipeline("nowhere")
    with pytest.raises(ValueError, match="device is 'toaster', which cannot be used here"):
        pipeline("tales-diffuapriel", device="toaster")


def test_an_older_name_of_a_strategy_means_the_same_blocks_included(pipe: TextDiffusionPipeline) -> None:
    ask = {"length": 40, "num_inference_steps": 8, "return_trace": True}
    older, now = (pipe(strategy=name, **ask) for name in ("confidence", "low_confidence"))
    assert older.texts == now.texts
    assert older.traces[0].meta["block_length"] == now.traces[0].meta["block_length"] == 16
    assert pipe(block_length=0, **ask).traces[0].meta["block_length"] is None


@pytest.fixture
def of_blocks() -> TextDiffusionPipeline:
    return TextDiffusionPipeline(block_model("diffuapriel", 4098, (1, 4, 0)).float(), TOKENIZER, name="blocks")


def test_a_model_of_blocks_writes_in_blocks_that_it_knows(of_blocks: TextDiffusionPipeline) -> None:
    ask = {"length": 14, "num_samples": 2, "return_trace": True}
    for block_length, expected in ((None, 4), (1, 1), (0, None)):
        traces = of_blocks("Mia", block_length=block_length, **ask).traces
        assert traces[0].meta["block_length"] == expected
        assert traces[0].meta["block_start"] == "zero"
    assert of_blocks("Mia", **ask).texts == of_blocks("Mia", length=14, num_samples=2).texts
    with pytest.raises(ValueError, match="block_length is 8; this model was trained for 1, 4, 0"):
        of_blocks("Mia", block_length=8)


def test_a_text_without_end_comes_block_by_block(of_blocks: TextDiffusionPipeline, pipe) -> None:
    pieces = list(itertools.islice(of_blocks.write("Once upon a", block_length=4, seed=2), 5))
    again = list(itertools.islice(of_blocks.write("Once upon a", block_length=4, seed=2), 7))
    assert pieces == again[:5] and all(isinstance(piece, str) for piece in pieces)
    with pytest.raises(ValueError, match=r"tiny was trained for block lengths \[\]; a text without end needs one"):
        pipe.write()
    with pytest.raises(ValueError, match="needs one that is not 0"):
        of_blocks.write(block_length=0)
    rule = {"strategy": "threshold", "threshold": 0.5, "block_length": 0}
    tuned = TextDiffusionPipeline(of_blocks.model, of_blocks.tokenizer, generation=rule)
    untuned = next(of_blocks.write("Once upon a", seed=2))
    assert next(tuned.write("Once upon a", seed=2)) == untuned, "a rule for the whole canvas is none for blocks"


def test_a_character_that_two_blocks_share_comes_whole() -> None:
    ids = [TOKENIZER.encode(text) for text in ("caf\u00e9", " \u2013 \u00e9")]
    parts = [WrittenBlock((i,), 0, 1, 0, None) for i in (*itertools.chain(*ids), TOKENIZER.eos_id)]
    assert "".join(_texts(iter(parts), TOKENIZER)) == "caf\u00e9 \u2013 \u00e9\n\n"


def test_the_command_writes_without_end_until_it_is_interrupted(tmp_path, capsys, monkeypatch) -> None:
    of_blocks = block_model("diffuapriel", 4098, (4,), tokenizer="gpt2-4k").float()
    save_checkpoint(tmp_path / "m", of_blocks, card="# m")

    def three_blocks(*asked, **options):
        yield from itertools.islice(write_blocks(*asked, **options), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("diffuapriel.pipelines.write_blocks", three_blocks)
    assert cli.main(["sample", "Once", "--checkpoint", str(tmp_path / "m"), "--endless", "--seed", "2"]) == 0
    written = capsys.readouterr().out
    monkeypatch.undo()
    expected = itertools.islice(pipeline(tmp_path / "m", "cpu").write("Once", seed=2), 3)
    assert written == printable("".join(expected)) + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endless"], "was trained for block lengths []; a text without end needs one"),
        (["--endless", "--length", "8", "--samples", "2"], "that never ends; leave out --length, --samples"),
        (["--window", "8"], "--window is 8; it must be 1 or more, and goes with --endless"),
        (["--stop-at-eos", "--block-length", "0"], "stop_at_eos is True, but without block_length"),
    ],
)
def test_what_does_not_go_with_a_text_without_end_is_refused(words, message, capsys) -> None:
    assert cli.main(["sample", *words]) == 1
    assert message in capsys.readouterr().err
