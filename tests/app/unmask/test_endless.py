"""Keep writing: a text without end that stops at once, goes on exactly, and takes a constant amount of memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from app.server.limits import Limits, Refused
from app.server.models import Models
from app.unmask.endless import part, text
from app.unmask.endless.part import EndlessPart, endless_length, prompt_of
from app.unmask.endless.text import EndlessText
from app.unmask.request import read_request
from app.unmask.session import UnmaskSession
from app.unmask.tab import UnmaskTab
from diffuapriel import checkpoint
from diffuapriel.sampling.writer import WrittenBlock
from tests.app.toys import toy_blocks

VALUES = ("Mia found", "toy-blocks", 32, 8, "low_confidence", 1.0, 0, 1.0, 0, 4, "prompt", 0.9)


@pytest.fixture(scope="module")
def models(checkpoints, tmp_path_factory) -> Models:
    return Models([toy_blocks(tmp_path_factory.mktemp("blocks")), *checkpoints])


@pytest.fixture
def tab(models, monkeypatch) -> EndlessPart:
    monkeypatch.setattr(part, "REDRAW_SECONDS", 0.0)  # a message for each block
    return UnmaskTab(models, Limits()).endless


def messages(stream: Iterator) -> Iterator[dict]:
    """What the page gets while it is written."""
    return (json.loads(update["value"]) for update, *_ in stream if isinstance(update, dict) and "value" in update)


def write(tab: EndlessPart, session: UnmaskSession, blocks: int, values=VALUES) -> tuple[list[dict], tuple]:
    """The messages of so many blocks, and the last update, after the visitor has pressed Stop."""
    visitor = SimpleNamespace(session_hash="me")
    tab.stops.arm("me")
    stream = tab.write(visitor, session, *values)
    seen = list(itertools.islice(messages(stream), blocks))
    tab.stops.stop("me")
    *_, last = stream
    return seen, last


def words(found: list[dict]) -> str:
    """The text of all blocks in these messages."""
    return "".join(dict((number, written) for one in found for number, written, _ in one["blocks"]).values())


def test_it_writes_on_until_it_is_stopped_and_then_goes_on_exactly(tab, models):
    whole, _ = write(tab, UnmaskSession(models, tab.limits), 9)
    session = UnmaskSession(models, tab.limits)
    first, (_, status, file) = write(tab, session, 4)
    assert first[-1]["count"] == 13 and "Stopped after 13 tokens" in status  # 3 of the first block were given
    second, (last, _, _) = write(tab, session, 5)
    assert words([*first, *second]) == words(whole) and words(first).startswith("Mia found")
    assert not json.loads(last["value"])["live"] and not models.busy
    kept = Path(file["value"]).read_text(encoding="utf-8")
    assert kept == words(whole).replace(text.BREAK, "\n\n")


def test_drafts_of_any_length_write_the_same_text_in_fewer_passes(tab, models):
    per_pass = []
    for block in (1, 16, 0):
        values = (*VALUES[:4], "speculative", 0.3, *VALUES[6:9], block, *VALUES[10:])
        found, _ = write(tab, UnmaskSession(models, tab.limits), 2, values)
        per_pass.append((words(found), float(found[-1]["figures"]["perPass"])))
    (text_of_one, one), *drafted = per_pass
    assert one == 1 and all(written == text_of_one and rate > 1 for written, rate in drafted)


def test_the_figures_are_those_of_the_text(tab, models):
    found, _ = write(tab, UnmaskSession(models, tab.limits), 6)
    sizes = {(one["figures"]["cache"], one["figures"]["since"]) for one in found}
    bytes_held = models.load(models.find("toy-blocks")).denoiser.empty_cache(1).bytes
    assert sizes == {(f"{bytes_held / 1000:,.1f} kB", "0")}
    assert [one["count"] for one in found] == [1, 5, 9, 13, 17, 21]
    # 8 steps on 32 tokens: one pass for a block of 4.
    assert [one["figures"]["perPass"] for one in found[:3]] == ["1.00", "2.50", "3.00"]
    assert found[-1]["figures"]["tokens"] == "21"


def test_other_settings_or_another_canvas_begin_another_text(tab, models):
    session = UnmaskSession(models, tab.limits)
    first, _ = write(tab, session, 3)
    file = session.endless.file
    other, _ = write(tab, session, 3, (*VALUES[:8], 1, *VALUES[9:]))
    assert other[0]["run"] != first[0]["run"] and other[-1]["count"] == first[-1]["count"]
    assert not file.exists() and session.endless.file.exists()
    session.close()
    assert not session.endless.file.exists()


def test_the_prompt_is_the_canvas_before_its_first_mask_and_before_padding(tab, models):
    asked = read_request(models, tab.limits, "Mia [MASK:3] red.", *VALUES[1:])
    session = UnmaskSession(models, tab.limits)
    assert prompt_of(session, asked) == asked.tokenizer.encode("Mia")
    session.compose(asked)
    eos = asked.tokenizer.eos_id
    ids = [7, eos, 8, 9, eos, eos, eos]
    session.run = SimpleNamespace(state=SimpleNamespace(ids=torch.tensor([ids])))
    assert prompt_of(session, asked) == ids[:5]


def test_the_whole_canvas_is_no_block_and_takes_the_default_length(tab, models, monkeypatch):
    whole = read_request(models, tab.limits, *VALUES[:9], 0, *VALUES[10:])
    assert whole.config.block_length is None and endless_length(whole) == 16
    full = read_request(models, tab.limits, VALUES[0], "toy-diffutran", *VALUES[2:])
    with pytest.raises(Refused, match="toy-diffutran is not a model of blocks"):
        endless_length(full)
    assert tab.seen("toy-blocks")["visible"] and not tab.seen("toy-diffutran")["visible"]
    monkeypatch.setattr(checkpoint, "bundled", lambda: ["tales-diffuapriel"])
    assert tab.is_offered and not EndlessPart(Models([]), tab.limits, tab.stops).is_offered


def test_while_others_wait_it_makes_room_after_a_while(tab, models, monkeypatch):
    monkeypatch.setattr(part, "COURTESY_SECONDS", 0.0)
    tab.others_wait = lambda: True
    *_, (_, status, _) = tab.write(SimpleNamespace(session_hash="me"), None, *VALUES)
    assert "Others are waiting" in status


def test_messages_and_file_stay_of_one_size_however_long_the_text(models, monkeypatch):
    tokenizer = models.tokenizer(models.find("toy-blocks"))
    written, sizes = EndlessText("key", tokenizer), []
    monkeypatch.setattr(text, "MOST_BYTES", 3000)
    monkeypatch.setattr(EndlessText, "seconds", property(lambda self: self.tokens / 2000))  # a rate of four digits too
    token = tokenizer.encode(" a")[0]
    for number in range(3000):
        written.take(WrittenBlock((token, tokenizer.eos_id), 0, 1, 8, None))
        if number % 300 == 299:
            sizes.append(len(written.message(live=True)))
    assert len(set(sizes[5:])) == 1 and written.tokens == 6000  # once all numbers have four digits
    assert 3000 <= written.file.stat().st_size < 3010
    blocks = json.loads(written.message(live=False))["blocks"]
    assert blocks[-1] == [2999, f" a{text.BREAK}", 2]
    written.close()
