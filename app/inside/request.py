"""What a visitor asks for in the Inside tab, as checked values, and the models that can be inspected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from app.server import limits as check
from app.server.limits import Limits, Refused, Setting, Settings, setting, several, text_setting
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from diffuapriel.config import ARCHITECTURES
from diffuapriel.options import Option
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.tokenizer import Tokenizer
from diffuapriel.trace.characters import spread

if TYPE_CHECKING:
    from torch import Tensor

    from diffuapriel.model.denoiser import Denoiser

MAX_LENGTH = 256  # tokens: occlusion takes a call per token, an attention map length x length cells
MOST_MODELS = 3
METHODS = ("gradient", "occlusion")


def offered(models: Models) -> list[str]:
    """Labels to choose from: every checkpoint, and nano with random weights for an architecture without one."""
    checkpoints = [label for label in models.everything if models.find(label).trained]
    held = {models.find(label).architecture for label in checkpoints}
    nano = [label for label in models.untrained if models.find(label).source.startswith("nano/")]
    return checkpoints + [label for label in nano if models.find(label).architecture not in held]


def opening(models: Models) -> list[str]:
    """One model of each architecture, in their order, with the tokenizer of the first: what the page opens with."""
    labels = offered(models)
    tokenizer = models.find(labels[0]).tokenizer
    alike = [entry for entry in map(models.find, labels) if entry.tokenizer == tokenizer]
    found = {entry.architecture: entry.label for entry in reversed(alike)}
    return [found[kind] for kind in ARCHITECTURES if kind in found]


def inside_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets, save for the output position, which depends on the text."""
    return {
        "text": text_setting(limits.max_characters),
        "models": Setting(lambda labels: read_models(models, labels)),
        "t": setting(Option("t", float, 0.0, least=0.0, most=1.0)),
        "method": setting(Option("method", str, METHODS[0], choices=METHODS)),
    }


@dataclass(frozen=True)
class InspectRequest:
    """One output position of one text: what the models predict."""

    ids: Tensor  # (length,), with the output position masked
    tokens: tuple[str, ...]  # of the text as typed, for the page
    position: int
    t: float
    sigma: float


def read_request(limits: Limits, tokenizer: Tokenizer, text: Any, position: Any, time: Any) -> InspectRequest:
    """Check the text, output position and time from the page. Raises ValueError, which names the first invalid one.

    Position -1 is the first [MASK], or the first token of a text without one; time 0 is that of the text's masks.
    """
    import torch

    from diffuapriel.diffusion.schedule import get_schedule
    from diffuapriel.interpret.adaln import time_of_text

    time = check.number("t", time, 0.0, 1.0)
    canvas = Canvas.from_text(check.text("the text", text, limits.max_characters), tokenizer)
    most = min(MAX_LENGTH, limits.max_tokens)
    if len(canvas) > most:
        raise Refused(texts.INSIDE_TOO_LONG.format(tokens=len(canvas), most=most))
    where = check.whole_number("output position", position, -1, len(canvas) - 1)
    where = int(canvas.masked.int().argmax()) if where == -1 else where
    ids = canvas.ids.clone()
    ids[where] = canvas.mask_id
    t = time or time_of_text(ids, canvas.mask_id)
    sigma = get_schedule().sigma(torch.tensor(t, dtype=torch.float64)).item()
    return InspectRequest(ids, tuple(spread(tokenizer.token_strings(canvas.ids.tolist()))), where, t, sigma)


def read_models(models: Models, labels: Any) -> list[ModelEntry]:
    """One to three different models with one tokenizer: otherwise the same text would be different tokens."""
    permitted = offered(models)
    model_entries = several("models", labels, MOST_MODELS, lambda label: models.find(label, permitted))
    if len({model_entry.label for model_entry in model_entries}) < len(model_entries):
        raise Refused(texts.INSIDE_TWICE)
    if len({model_entry.tokenizer for model_entry in model_entries}) > 1:
        raise Refused(texts.INSIDE_TOKENIZERS)
    return model_entries


def load_model(models: Models, model_entry: ModelEntry) -> Denoiser:
    """The model itself; an untrained one with its gates open."""
    from diffuapriel.interpret.adaln import open_gates

    denoiser = cast("Denoiser", models.load(model_entry).denoiser)
    return denoiser if model_entry.trained else open_gates(denoiser)
