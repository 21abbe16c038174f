"""The rule that a model's card records is what the page proposes for that model."""

from __future__ import annotations

import torch

from app.server.limits import Limits
from app.server.models import Models
from app.unmask.request import THRESHOLD, first_settings, opening_config, read_request
from app.unmask.tab import UnmaskTab
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.config import TEXT_TEMPERATURE, SamplerConfig


def test_the_page_proposes_the_rule_of_the_card_or_its_own(tmp_path):
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("diffuapriel", 16, 2, 4098, "gpt2-4k", d_state=4, headdim=8, cond_dim=8))
    rules = {"plain": None, "tuned": {"strategy": "factor", "factor": 0.5, "block_length": 8}}
    for name, rule in rules.items():
        save_checkpoint(tmp_path / name, model, card="", extra={"corpus": "tales:1", "generation": rule})
    tab = UnmaskTab(Models([str(tmp_path / name) for name in rules]), Limits())
    plain, tuned = (tab.models.find(name) for name in rules)

    assert first_settings(plain) == ("threshold", 0, THRESHOLD)
    assert opening_config(plain) == SamplerConfig("threshold", steps=128, top_p=0.9, threshold=THRESHOLD)
    assert tab.propose("tuned")[:3] == first_settings(tuned) == ("factor", 8, THRESHOLD)
    assert tab.propose("plain")[:3] == first_settings(plain)
    assert tab.propose("tales-diffuapriel")[3] == 1 and tab.propose("stories-diffuapriel")[3] == TEXT_TEMPERATURE
    assert opening_config(tuned) == SamplerConfig("factor", steps=128, block_length=8, top_p=0.9, factor=0.5)
    for label, value in (("tuned", 0.5), ("plain", 1.0)):
        rest = (8, 4, "factor", 1.0, 0, 0.9, 0, 8, "prompt", 0.97)  # length, steps, strategy, ..., threshold
        assert read_request(tab.models, tab.limits, "", label, *rest).config.factor == value
