"""A model of the Hub is fetched only when named, judged before its weights come, and pushed with its card. Offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from diffuapriel.config import ModelConfig
from diffuapriel.hub import is_hub_id
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.pretrained import PretrainedDenoiser

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = ModelConfig("diffuapriel", 16, 2, 4098, "gpt2-4k", d_state=4, headdim=8, cond_dim=8)
PNG = b"\x89PNG\r\n\x1a\n"


def tiny() -> PretrainedDenoiser:
    torch.manual_seed(0)
    return PretrainedDenoiser(CONFIG).eval()


class Hub:
    """What huggingface_hub would download from and upload to: folders of one commit each."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.uploads = root, [], []
        self.created: list[dict[str, Any]] = []

    def add(self, name: str, files: dict[str, bytes]) -> None:
        for file, data in files.items():
            path = self.root / "remote" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def files(self, name: str) -> list[str]:
        folder = self.root / "remote" / name
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def snapshot_download(self, name: str, *, allow_patterns: list[str], **options: Any) -> str:
        self.asked.append((name, allow_patterns, options))
        folder = self.root / "remote" / name
        if not folder.exists():
            response = huggingface_hub.errors.HfHubHTTPError.__new__(RepositoryNotFoundError)
            raise response
        kept = list(huggingface_hub.utils.filter_repo_objects(self.files(name), allow_patterns=allow_patterns))
        copy = self.root / "cache" / name / "snapshots" / COMMIT
        copy.mkdir(parents=True, exist_ok=True)
        for file in kept:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, copy / file)
        return str(copy)

    def fetched(self, name: str) -> set[str]:
        folder = self.root / "cache" / name / "snapshots" / COMMIT
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    remote = Hub(tmp_path / "hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", remote.snapshot_download)
    monkeypatch.setattr(HfApi, "list_repo_files", lambda self, name, **options: remote.files(name))

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> Any:
        remote.created.append({"repo_id": repo_id, "token": self.token, **options})
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self: HfApi, **options: Any) -> str:
        sent = {p.name: p.read_bytes() for p in Path(options["folder_path"]).iterdir()}
        remote.uploads.append({**options, "sent": sent})
        remote.add(options["repo_id"], sent)
        return f"https://huggingface.co/{options['repo_id']}/commit/{COMMIT}"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return remote


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The mixin and a folder


def test_what_is_saved_is_what_is_loaded_with_a_card(tmp_path):
    model = tiny()
    model.extra = {"recipe": {"corpus": "tales:1", "tokens": 12}}
    model.save_pretrained(tmp_path / "m")
    assert {f.name for f in (tmp_path / "m").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    loaded = PretrainedDenoiser.from_pretrained(tmp_path / "m")
    assert same_weights(loaded, model) and not loaded.training
    assert loaded.extra == model.extra and loaded.tokenizer.name == "gpt2-4k"
    assert isinstance(loaded, Denoiser) and same_weights(load_checkpoint(tmp_path / "m")[0], model)


def test_the_card_is_valid_and_tells_the_recipe(tmp_path):
    model = tiny()
    model.extra = {"recipe": {"corpus": "tales:1", "tokens": 1234}}
    model.save_pretrained(tmp_path / "m", model_card_kwargs={"evaluation": {"nats_per_token": 0.5}})
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert card.data.library_name == "diffuapriel" and card.data.license == "mit"
    assert "tales" in (card.data.tags or [])
    for text in ("# m\n", "| tokens | 1,234 |", "| nats per token | 0.5 |", "| parameters |"):
        assert text in card.text


def test_a_bundled_checkpoint_keeps_its_card_figures_pictures_and_storage(tmp_path):
    model = PretrainedDenoiser.from_pretrained("tales-diffuapriel")
    model.save_pretrained(tmp_path / "copy")
    source = inspect_checkpoint("tales-diffuapriel").folder
    assert {f.name for f in (tmp_path / "copy").iterdir()} == {f.name for f in source.iterdir()}
    for file in source.iterdir():
        if file.suffix != ".json":
            assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes(), file.name
    assert inspect_checkpoint(tmp_path / "copy").extra == model.extra


def test_a_model_that_was_trained_on_is_not_saved_with_the_old_figures(tmp_path):
    first = tiny()
    first.card, first.extra = "# measured\n", {"recipe": {"tokens": 7}, "nelbo": 0.4}
    first.pictures = {"loss.png": PNG}
    first.save_pretrained(tmp_path / "first")
    model = PretrainedDenoiser.from_pretrained(tmp_path / "first")
    with torch.no_grad():
        model.head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "second")
    again = PretrainedDenoiser.from_pretrained(tmp_path / "second")
    assert again.extra == {"recipe": {"trained further from": "first"}} and not again.pictures
    assert again.card is not None and "measured" not in again.card
    with torch.no_grad():
        again.head.weight[0, 0] += 1
    again.card, again.extra = "# measured anew\n", {"nelbo": 0.3}
    again.save_pretrained(tmp_path / "third")
    third = PretrainedDenoiser.from_pretrained(tmp_path / "third")
    assert third.card == "# measured anew\n" and third.extra == {"nelbo": 0.3}


def test_any_denoiser_can_be_shared(tmp_path):
    denoiser, _ = load_checkpoint("tales-diffutran")
    assert same_weights(PretrainedDenoiser.of(denoiser), denoiser)


def test_a_foreign_config_and_a_folder_that_holds_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="config is not the model's own"):
        tiny().save_pretrained(tmp_path / "m", config={"d_model": 3})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        tiny().save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


# Pushing


def test_push_to_hub_uploads_a_checkpoint_and_its_card_in_one_commit(hub):
    model = tiny()
    model.pictures = {"loss.png": PNG}
    url = model.push_to_hub("owner/stories", private=True, token="hf_x", branch="dev", commit_message="hello")
    assert url.endswith(COMMIT)
    assert hub.created == [{"repo_id": "owner/stories", "token": "hf_x", "private": True, "exist_ok": True}]
    (upload,) = hub.uploads
    assert upload["repo_id"] == "owner/stories" and upload["repo_type"] == "model"
    assert upload["revision"] == "dev" and upload["commit_message"] == "hello"
    assert set(upload["sent"]) == {"model.safetensors", "config.json", "README.md", "loss.png"}
    assert upload["sent"]["README.md"].decode().startswith("---\nlicense: mit")
    assert "# stories\n" in upload["sent"]["README.md"].decode()


def test_save_pretrained_may_push_too(hub, tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="owner/m", private=True)
    assert hub.uploads[0]["repo_id"] == "owner/m" and hub.created[0]["private"]
    assert same_weights(load_checkpoint(tmp_path / "m")[0], model)


# Fetching


def test_what_was_pushed_is_what_is_fetched(hub):
    model = tiny()
    model.push_to_hub("owner/stories")
    loaded, tokenizer = load_checkpoint("owner/stories")
    assert same_weights(loaded, model) and tokenizer.name == "gpt2-4k"
    again = PretrainedDenoiser.from_pretrained("owner/stories", revision="main", token="hf_x")
    assert same_weights(again, model)
    assert hub.asked[-2][2]["revision"] == "main" and hub.asked[-2][2]["token"] == "hf_x"
    assert hub.asked[-1][2]["revision"] == COMMIT  # the weights are those of the config that was judged


def test_only_the_files_of_a_checkpoint_are_fetched(hub):
    tiny().push_to_hub("owner/stories")
    hub.add("owner/stories", {"pytorch_model.bin": b"PK", "run.py": b"", "old/model.safetensors": b"x"})
    inspect_checkpoint("owner/stories")
    assert hub.fetched("owner/stories") == {"config.json"}
    load_checkpoint("owner/stories")
    assert hub.fetched("owner/stories") == {"config.json", "model.safetensors", "README.md"}


def test_a_foreign_model_is_refused_by_name_before_its_weights_are_fetched(hub):
    foreign = json.dumps({"model_type": "gpt2"}).encode()
    hub.add("openai/gpt", {"config.json": foreign, "model.safetensors": b"x" * 1000})
    with pytest.raises(ValueError, match=r"openai/gpt: .*another architecture: model_type is 'gpt2'"):
        load_checkpoint("openai/gpt")
    assert hub.fetched("openai/gpt") == {"config.json"}


def test_a_pickled_model_is_refused_by_name_and_never_fetched(hub):
    hub.add("owner/pickled", {"pytorch_model.bin": b"PK\x03\x04"})
    with pytest.raises(ValueError, match=r"owner/pickled/pytorch_model\.bin is a pickled file"):
        load_checkpoint("owner/pickled")
    hub.add("owner/empty", {"notes.txt": b""})
    with pytest.raises(FileNotFoundError, match=r"owner/empty/config\.json is missing"):
        load_checkpoint("owner/empty")
    assert hub.fetched("owner/pickled") == hub.fetched("owner/empty") == set()


def test_a_config_that_names_a_pickle_as_its_weights_is_refused(hub):
    tiny().push_to_hub("owner/stories")
    config = json.loads(hub.uploads[0]["sent"]["config.json"])
    config["files"] = {"weights.bin": "0" * 64}
    hub.add("owner/stories", {"config.json": json.dumps(config).encode(), "weights.bin": b"PK\x03\x04"})
    with pytest.raises(ValueError, match="must map the safetensors files"):
        load_checkpoint("owner/stories")
    assert hub.fetched("owner/stories") == {"config.json"}


def test_altered_weights_are_refused(hub):
    tiny().push_to_hub("owner/stories")
    data = bytearray(hub.uploads[0]["sent"]["model.safetensors"])
    data[-1] ^= 1
    hub.add("owner/stories", {"model.safetensors": bytes(data)})
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its SHA-256"):
        load_checkpoint("owner/stories")


def test_a_folder_of_that_name_goes_first_and_nothing_is_asked(hub, tmp_path):
    save_checkpoint(tmp_path / "owner" / "stories", tiny(), card="")
    load_checkpoint("owner/stories")
    load_checkpoint("tales-diffutran")
    assert hub.asked == []


@pytest.mark.parametrize("name", ["stories", "runs/mine/checkpoint", "/etc/x", "./a", "../a", "owner/", "a b/c"])
def test_what_is_no_id_is_never_asked_of_the_network(hub, name):
    with pytest.raises(FileNotFoundError, match="neither a folder, nor bundled"):
        load_checkpoint(name)
    assert hub.asked == []


def test_a_path_into_a_folder_of_this_machine_is_no_id(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="nor bundled"):
        load_checkpoint("runs/mine")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(Path("owner/stories"))  # a path is a path
    assert hub.asked == [] and is_hub_id("owner/stories")


def test_an_unknown_model_is_said_to_be_unknown(hub):
    with pytest.raises(FileNotFoundError, match=r"'owner/nothing'.*the Hub has no such public model"):
        load_checkpoint("owner/nothing")


def test_without_a_network_the_error_says_so(hub, monkeypatch):
    def offline(*args: Any, **options: Any) -> str:
        raise LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ConnectionError, match=r"'owner/stories' is neither a folder nor bundled, and cannot be downloaded"
    ):
        load_checkpoint("owner/stories")


def test_a_copy_fetched_before_is_used_without_a_network(tmp_path, monkeypatch):
    """By the real library, from a cache as it lays one out."""
    monkeypatch.chdir(tmp_path)
    model, repository = tiny(), tmp_path / "cache" / "models--owner--stories"
    model.save_pretrained(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    options = {"local_files_only": True, "cache_dir": tmp_path / "cache"}
    assert same_weights(PretrainedDenoiser.from_pretrained("owner/stories", **options), model)
    with pytest.raises(ConnectionError, match="cannot be downloaded from the Hub"):
        PretrainedDenoiser.from_pretrained("owner/others", **options)
