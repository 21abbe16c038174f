"""A denoiser with Hugging Face's save_pretrained, from_pretrained and push_to_hub.

    model = PretrainedDenoiser.from_pretrained("tales-diffuapriel")     a bundled name, a folder, or owner/name
    model.save_pretrained("runs/mine")                                  the files of checkpoint.py, atomically
    model.push_to_hub("owner/name")                                     the same files, with the model card

In every other respect it is a `Denoiser`. huggingface_hub's mixin does the upload; the files are this package's
checkpoints, with all their checks.

The card and the figures of a checkpoint describe its weights. A model that was trained further is saved with a new
card, which says so and repeats no figure.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin

from diffuapriel.checkpoint import fetch_checkpoint, load_weights, read_beside, save_checkpoint
from diffuapriel.config import ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model_card import write_card
from diffuapriel.tokenizer import Tokenizer, get_tokenizer


@dataclass(frozen=True)
class _Source:
    """The checkpoint that a model was loaded from; `digest` identifies the weights that card and extra describe."""

    name: str
    digest: str
    card: str | None
    extra: dict[str, Any]


class PretrainedDenoiser(Denoiser, ModelHubMixin, library_name="diffuapriel", license="mit"):
    """A `Denoiser` that can be saved, loaded and shared.

    Attributes:
        card: text of the model card; None generates one.
        extra: plain JSON values in config.json: recipe and measured figures.
        pictures: PNG bytes of the card's pictures by file name.
        storage: "float32", or "bfloat16" for matrices in files.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.card: str | None = None
        self.extra: dict[str, Any] = {}
        self.pictures: dict[str, bytes] = {}
        self.storage = "float32"
        self._source: _Source | None = None

    @classmethod
    def of(cls, denoiser: Denoiser) -> PretrainedDenoiser:
        """A copy of a denoiser, in evaluation mode, on its device."""
        model = cls(denoiser.config)
        model.load_state_dict(denoiser.state_dict())
        return model.to(next(denoiser.parameters()).device).eval()

    @property
    def tokenizer(self) -> Tokenizer:
        return get_tokenizer(self.config.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        **hub_options: Any,
    ) -> PretrainedDenoiser:
        """Load a bundled checkpoint, a folder, or a model on the Hub; in evaluation mode, on `device`.

        hub_options: revision, token, cache_dir, force_download and local_files_only, as of `hub.fetch`.
        Raises as `load_checkpoint` does.
        """
        info = fetch_checkpoint(pretrained_model_name_or_path, **hub_options)
        model = cls(info.config)
        stored = load_weights(model, info)
        card = info.folder / "README.md"
        model.card = read_beside(info, card.name).decode(errors="replace") if card.exists() else None
        model.extra = info.extra
        pictures = sorted(file.name for file in info.folder.glob("*.png"))
        model.pictures = {name: read_beside(info, name) for name in pictures}
        half = any(tensor.dtype == torch.bfloat16 for tensor in stored.values())
        model.storage = "bfloat16" if half else "float32"
        name = info.repository or info.name
        model._source = _Source(name, model._digest(), model.card, copy.deepcopy(info.extra))
        return model.to(device).eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a checkpoint folder atomically; with `push_to_hub` also upload it and return the commit's URL.

        model_card_kwargs: arguments of `write_card` (recipe, evaluation, ...) for a new card. repo_id: by default the
        folder's name. Raises ValueError for a config that is not the model's own, and as `save_checkpoint` does.
        """
        if config is not None and config != self.config:
            raise ValueError(
                "config is not the model's own; a checkpoint records the config that the model was built from"
            )
        folder = Path(save_directory)
        self._drop_outdated_card()
        card = self.card
        if card is None or model_card_kwargs:
            card = str(self.generate_model_card(**{"name": folder.name, **(model_card_kwargs or {})}))
        save_checkpoint(folder, self, card=card, extra=self.extra, storage=self.storage, pictures=self.pictures)
        if not push_to_hub:
            return None
        more = {"model_card_kwargs": model_card_kwargs, **push_to_hub_kwargs}
        return self.push_to_hub(repo_id or folder.name, **more)

    def generate_model_card(self, *, name: str = "model", **kwargs: Any) -> ModelCard:
        """A new card from the config and arguments of `write_card`."""
        facts = {"recipe": self.extra.get("recipe", {}), **kwargs}
        parameters = self.config.parameters
        return ModelCard(write_card(name=name, config=self.config, parameters=parameters, **facts))

    def _drop_outdated_card(self) -> None:
        """If the weights have changed since loading, drop the card and figures that were loaded with them."""
        source = self._source
        if source is None or self._digest() == source.digest:
            return
        if self.card == source.card:
            self.card, self.pictures = None, {}
        if self.extra == source.extra:
            self.extra = {"recipe": {"trained further from": source.name}}
        self._source = None

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for tensor in self.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
