"""Data beside the model's need: what is measured, what is computed, and what is said of both."""

from __future__ import annotations

import pytest

from diffuapriel.config import ARCHITECTURES, PRESETS, preset
from diffuapriel.tokenizer import VOCABULARIES
from tools import bench_data as data
from tools.bench_data import SourceSpeed, format_speeds, measure_sources, needed


def test_a_source_is_measured_with_every_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ROWS", 2)
    monkeypatch.setattr(data, "LENGTH", 64)
    speeds = measure_sources(0.01, workers=1, sources=["tales"])
    assert [(s.source, s.tokenizer) for s in speeds] == [("tales", tokenizer) for tokenizer in VOCABULARIES]
    assert all(s.per_core > 0 and s.by_workers > 0 for s in speeds)
    with pytest.raises(ValueError, match="workers 0"):
        measure_sources(1, workers=0)


def test_smaller_models_need_more_tokens_a_second() -> None:
    for architecture in ARCHITECTURES:
        needs = [needed(preset(name, architecture)) for name in PRESETS]
        assert needs == sorted(needs, reverse=True)


def test_where_data_would_be_the_bottleneck_is_said() -> None:
    need = max(needed(preset("1.3b", architecture)) for architecture in ARCHITECTURES)
    speeds = [
        SourceSpeed(source, tokenizer, speed, 2 * speed)
        for tokenizer in ("gpt2", "gpt2-4k")
        for source, speed in (("slow", need / 20), ("fast", 1e12))
    ]
    text = format_speeds(speeds, workers=2)
    last = text.splitlines()[-1]
    assert "1.3b from slow (20 cores)" in last and "fast" not in last
    assert "Measured here" in text and "Computed" in text
