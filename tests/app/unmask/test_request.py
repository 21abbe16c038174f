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

    rule = {"strategy": "threshold", "block": 0, "threshold": THRESHOLD, "factor": 1.0, "entropy_bound": 0.1}
    drawn = {"temperature": 1.0, "top_p": 0.9}
    assert first_settings(plain) == rule | drawn
    assert opening_config(plain) == SamplerConfig("threshold", steps=128, top_p=0.9, threshold=THRESHOLD)
    assert first_settings(tuned) == rule | drawn | {"strategy": "factor", "block": 8, "factor": 0.5}
    for label in ("tuned", "plain"):
        assert tab.propose(label)[:7] == tuple(first_settings(tab.models.find(label)).values())
    assert tab.propose("tales-diffuapriel")[5] == 1 and tab.propose("stories-diffuapriel")[5] == TEXT_TEMPERATURE
    assert opening_config(tuned) == SamplerConfig("factor", steps=128, block_length=8, top_p=0.9, factor=0.5)
    for label, value in (("tuned", 0.5), ("plain", 1.0)):
        rest = (8, 4, "factor", 1.0, 0, 0.9, 0, 8, "prompt", 0.97)  # length, steps, strategy, ..., threshold
        assert read_request(tab.models, tab.limits, "", label, *rest).config.factor == value
        assert read_request(tab.models, tab.limits, "", label, *rest, 2.0, 0.1).config.factor == 2.0
