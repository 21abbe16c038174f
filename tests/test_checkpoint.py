"""A checkpoint is whole or refused by name; it is safetensors and JSON, never a pickle."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffuapriel import assets, checkpoint, pretrained, storage
from diffuapriel.checkpoint import bundled, inspect_checkpoint, is_matrix, load_checkpoint, save_checkpoint
from diffuapriel.config import ARCHITECTURES, ModelConfig
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.model_card import write_card
from diffuapriel.pretrained import PretrainedDenoiser


def tiny(architecture: str = "diffuapriel") -> Denoiser:
    torch.manual_seed(0)
    config = ModelConfig(architecture, 16, 2, 4098, "gpt2-4k", d_state=4, headdim=8, attention_headdim=8, cond_dim=8)
    return Denoiser(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", tiny(), card="# a card\n", extra={"tokens": 12})
    return tmp_path / "model"


def edit_config(folder: Path, change) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_saved_is_what_is_loaded(tmp_path, architecture):
    model = tiny(architecture)
    save_checkpoint(tmp_path / "m", model, card="card", extra={"tokens": 12})
    loaded, tokenizer = load_checkpoint(tmp_path / "m")
    assert loaded.config == model.config and tokenizer.name == "gpt2-4k" and not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert inspect_checkpoint(tmp_path / "m").extra == {"tokens": 12}


@pytest.mark.parametrize(
    ("extra", "corpus", "length"),
    [
        ({"recipe": {"corpus": "tales:1", "length": 64}}, "tales:1", 64),
        ({"corpus": "stdlib"}, "stdlib", 0),
        ({}, "", 0),
        ({"recipe": ["tales"]}, "", 0),
        ({"recipe": {"corpus": 3, "length": "64"}}, "", 0),
        ({"recipe": {"length": 4096}}, "", 0),  # longer than the context
    ],
)
def test_corpus_and_length_of_the_training_are_read_from_what_extra_holds(folder, extra, corpus, length):
    edit_config(folder, lambda document: document.update(extra=extra))
    info = inspect_checkpoint(folder)
    assert (info.corpus, info.length) == (corpus, length)
    assert info.default_length == (length or 128)


@pytest.mark.parametrize("told", [True, False])
def test_document_boundaries_of_an_older_checkpoint_are_read_from_the_options_of_its_training(folder, told):
    def older(document):
        del document["model"]["document_boundaries"]
        document["extra"]["options"] = {"document_boundaries": told}

    edit_config(folder, older)
    assert load_checkpoint(folder)[0].config.document_boundaries is told


def test_only_safetensors_json_and_markdown_are_written(folder):
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert (folder / "README.md").read_text() == "# a card\n"
    assert list(folder.parent.iterdir()) == [folder]  # nothing is left beside it


def test_bfloat16_storage_keeps_the_sensitive_parameters_in_float32(tmp_path):
    model = tiny("diffuapriel-h")
    save_checkpoint(tmp_path / "m", model, card="", storage="bfloat16")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    for name, tensor in stored.items():
        sensitive = tensor.ndim < 2 or any(word in name for word in ("A_log", "dt_bias", "norm", ".D", "bias"))
        assert tensor.dtype == (torch.float32 if sensitive else torch.bfloat16), name
    assert any(name.endswith("mixer.A_log") for name in stored)
    loaded = load_checkpoint(tmp_path / "m")[0].state_dict()
    for name, tensor in model.state_dict().items():
        wanted = tensor.bfloat16().float() if is_matrix(name, tensor) else tensor
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], wanted), name


def test_large_weights_are_sharded_as_hugging_face_does(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 100_000)
    model = tiny()
    save_checkpoint(tmp_path / "m", model, card="")
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(shards) > 1 and shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    for shard in shards:
        tensors = load_file(shard)
        assert len(tensors) == 1 or sum(t.numel() * 4 for t in tensors.values()) <= 100_000
    loaded, _ = load_checkpoint(tmp_path / "m")
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())


def test_no_file_of_a_small_checkpoint_is_over_16_megabytes():
    assert checkpoint.SHARD_BYTES <= 16_000_000


# ---------------------------------------------------------------- refusals


def test_a_missing_checkpoint_is_named_with_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'nowhere'.*bundled"):
        load_checkpoint("nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_checkpoint(tmp_path)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_truncated_weights_are_refused(folder, kept):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        load_checkpoint(folder)


def test_a_single_changed_bit_is_refused(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize("length", [640, 640 + 256, 640 + 512, 640 + 768])  # its bytes are \x80\x02 to \x80\x05
def test_a_header_whose_length_reads_as_a_pickle_is_no_pickle(length, tmp_path):
    file, tensors = tmp_path / "model.safetensors", {"a": torch.arange(5)}
    for padding in range(length):
        save_file(tensors, file, metadata={"format": "pt", "note": "x" * padding})
        if int.from_bytes(file.read_bytes()[:8], "little") == length:
            break
    assert file.read_bytes().startswith(storage.PICKLE_STARTS)
    assert torch.equal(storage.read_tensors(file)["a"], tensors["a"])


def test_extra_bytes_and_noise_are_refused(folder):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data + b"x")
    with pytest.raises(ValueError, match="is damaged: its header promises"):
        load_checkpoint(folder)
    file.write_bytes(b"\xff" * 1000)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder)
    file.write_bytes((20).to_bytes(8, "little") + b"{'not': 'json at all" + b"x" * 50)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder)


def with_header(header: bytes, tail: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + tail


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_header(b"[" * 100_000), "not a safetensors file"),
        (with_header(b'{"a":' * 100_000), "not a safetensors file"),
        (with_header(b'{"a":' + b"[" * 65 + b"]" * 65 + b"}"), "not a safetensors file"),
        (with_header(b'{"a":{"data_offsets":[0,Infinity]}}'), "is truncated"),
        (with_header(b'{"a":{"data_offsets":[0,NaN]}}'), "not a safetensors file"),
        (with_header(b'{"a":{"data_offsets":[0,1' + b"0" * 4000 + b"]}}"), "is truncated"),
        (with_header(b"{" + b" " * 5_000_000 + b"}"), r"a header of 5,000,002 bytes; permitted: up to 4,000,000"),
        (with_header(b'{"%s":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}' % (b"x" * 10**5), b"0000"), "damaged"),
    ],
    ids=["lists", "objects", "64", "infinity", "NaN", "long number", "5 MB", "long name"],
)
def test_a_hostile_header_is_refused_in_one_short_line(tmp_path, data, reason):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=rf"model\.safetensors .*{reason}|{reason}") as error:
        storage.read_tensors(tmp_path / "model.safetensors")
    assert len(str(error.value)) < 500


class Bomb:
    """Opened as a pickle, it would leave a mark."""

    def __reduce__(self):
        return os.mkdir, ("pickle-was-opened",)


def test_a_pickle_is_refused_and_never_opened(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare, torch_file = tmp_path / "weights.bin", tmp_path / "weights.pt"
    bare.write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": torch.ones(2)}, torch_file)
    for file in (bare, torch_file):
        with pytest.raises(ValueError, match=f"{file.name} is a pickled file; only safetensors is read"):
            load_checkpoint(file)
        (folder / "model.safetensors").write_bytes(file.read_bytes())  # under a safetensors name
        with pytest.raises(ValueError, match=r"model\.safetensors is a pickled file"):
            load_checkpoint(folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "pytorch_model.bin").write_bytes(bare.read_bytes())
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickled file"):
        load_checkpoint(foreign)
    assert not (tmp_path / "pickle-was-opened").exists()


def resave(folder: Path, change) -> None:
    """Change the tensors and record the new sum, as a foreign tool would."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    digest = storage.sha256(folder / "model.safetensors")
    edit_config(folder, lambda document: document["files"].update({"model.safetensors": digest}))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.pop("final_norm_weight"), "missing tensors: final_norm_weight"),
        (lambda t: t.update(extra=torch.ones(1)), "unknown tensors: extra"),
        (lambda t: t.update({"x" * 10**5: torch.ones(1)}), "unknown tensors: x{80}$"),
        (lambda t: t.update({"head.weight": torch.ones(3, 3)}), r"head.weight has shape \(3, 3\).*asks for"),
        (lambda t: t.update({"head.weight": t["head.weight"].half()}), "head.weight is torch.float16"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, change, reason):
    resave(folder, change)
    with pytest.raises(ValueError, match=reason):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda d: d.update(model_type="gpt2"), "another architecture: model_type is 'gpt2'"),
        (lambda d: d.pop("model_type"), "another architecture"),
        (lambda d: d.update(format_version=99), "format_version 99; this package reads 2"),
        (lambda d: d.update(surprise=1), "unknown keys: surprise"),
        (lambda d: d.pop("files"), "missing keys: files"),
        (lambda d: d["model"].update(surprise=1), "surprise"),
        (lambda d: d["model"].update(architecture="rwkv"), "rwkv"),
        (lambda d: d["model"].update(d_model="wide"), "wide"),
        (lambda d: d["model"].update(vocab_size=99), "vocab_size is 99.*the two must match"),
        (lambda d: d["model"].update(tokenizer="llama"), "llama"),
        (lambda d: d.update(files={"../../secret.safetensors": "0"}), "files must map"),
        (lambda d: d.update(extra=3), "extra is int"),
    ],
)
def test_a_foreign_config_is_refused_by_name(folder, change, reason):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=reason):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[" * 200_000, '{"a":' * 200_000, '{"model":' + "9" * 5000 + "}", b"\xff\xfe{}", b" " * 4_000_001],
    ids=["open", "list", "nested lists", "nested objects", "long number", "UTF-16", "4 MB"],
)
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=r"config\.json (is not JSON|holds list|has 4,000,001 bytes)") as error:
        load_checkpoint(folder)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 10**9},
        {"depth": 10**6},
        {"depth": 10**8, "architecture": "diffuapriel-h"},
        {"depth": 1000},
        {"d_model": 16_384, "depth": 400},
        {"d_model": 16_384},
        {"expand": 10**5},
        {"expand": 64, "d_model": 4096},
        {"vocab_size": 2**20},
        {"vocab_size": 10**400},
        {"d_state": 4096},
        {"cond_dim": 65_536},
        {"cond_dim": 10**9},
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [inspect_checkpoint, load_checkpoint, PretrainedDenoiser.from_pretrained])
def test_a_config_larger_than_its_files_is_refused_before_a_model_is_built(folder, sizes, read, monkeypatch):
    for module in (checkpoint, pretrained):
        monkeypatch.setattr(module, "Denoiser", None)
    monkeypatch.setattr(PretrainedDenoiser, "__init__", None)
    edit_config(folder, lambda document: document["model"].update(sizes))
    with pytest.raises(ValueError, match=r"config\.json(: .* it must be| describes a model of|: .* parameters; perm)"):
        read(folder)


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(model_type=LONG),
        lambda d: d.update(model_type=[[[LONG] * 10]]),
        lambda d: d.update(format_version=LONG),
        lambda d: d.update({LONG: 1}),
        lambda d: d["model"].update({LONG: 1}),
        lambda d: d["model"].update(architecture=LONG),
        lambda d: d["model"].update(tokenizer=LONG),
        lambda d: d["model"].update(depth=LONG),
        lambda d: d["model"].update(depth=[LONG] * 10),
        lambda d: d.update(files={LONG + ".safetensors": "0"}),
        lambda d: d.update(files={"x" * 5000 + ".safetensors": "0"}),
        lambda d: d.update(files={"x\0.safetensors": "0"}),
        lambda d: d.update(files={"\ud800.safetensors": "0"}),
        lambda d: d.update(files={"/etc/passwd": "0"}),
        lambda d: d.update(files={"C:\\model.safetensors": "0"}),
    ],
)
def test_what_a_config_says_is_cut_in_the_message(folder, change):
    edit_config(folder, change)
    with pytest.raises(ValueError, match=r"config\.json") as error:
        load_checkpoint(folder)
    assert len(str(error.value)) < 500 + len(str(folder))


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 5000, "a\0b"], ids=["long", "deep", "NUL"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ValueError, match="cannot be opened") as error:
        load_checkpoint(name)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "loss.png"])
def test_a_link_out_of_the_folder_is_refused(folder, name, tmp_path):
    (folder / "loss.png").write_bytes(b"")
    os.rename(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is a link out of the folder"):
        PretrainedDenoiser.from_pretrained(folder)


def test_links_within_the_folder_and_to_the_folder_are_followed(folder, tmp_path):
    os.rename(folder / "model.safetensors", folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    (tmp_path / "link").symlink_to(folder)
    assert load_checkpoint(tmp_path / "link")[0].config == tiny().config


def test_the_hub_s_cache_keeps_a_checkpoint_as_links(folder, tmp_path):
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):
        os.rename(file, cache / "blobs" / str(number))
        (snapshot / file.name).symlink_to(cache / "blobs" / str(number))
    assert PretrainedDenoiser.from_pretrained(snapshot).card == "# a card\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "loss.png"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name} is not a regular file"):
        PretrainedDenoiser.from_pretrained(folder)


def test_a_card_or_a_picture_has_a_bound(folder):
    for name in ("README.md", "loss.png"):
        (folder / name).touch()
        os.truncate(folder / name, 10**12)  # a file with a hole, which takes no room on the disk
        with pytest.raises(ValueError, match=f"{name} has 1,000,000,000,000 bytes; permitted: up to 16,000,000"):
            PretrainedDenoiser.from_pretrained(folder)
        (folder / name).unlink()


def test_a_run_stands_for_its_checkpoint_and_gives_it_its_name(folder, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="neither a checkpoint nor a run with one"):
        checkpoint.inspect_checkpoint(run)
    shutil.copytree(folder, run / "checkpoint")
    monkeypatch.chdir(run)
    for given in (run, run / "checkpoint", f"{run}/", ".", "checkpoint", "../mine"):
        info = checkpoint.inspect_checkpoint(given)
        assert (info.name, info.folder) == ("mine", run / "checkpoint"), given
        assert checkpoint.checkpoint_name(given) == "mine"
    assert checkpoint.load_checkpoint(run)[0].config == info.config
    (run / "checkpoint").rename(run / ".checkpoint.previous")  # as a save that was killed leaves it
    assert checkpoint.inspect_checkpoint(run).name == "mine"


def test_a_checkpoint_is_called_by_its_bundled_name_its_folder_or_its_id(folder):
    assert checkpoint.checkpoint_name(folder) == folder.name
    assert checkpoint.checkpoint_name("tales-diffuapriel") == "tales-diffuapriel"
    assert checkpoint.checkpoint_name("owner/name") == "owner/name"


def test_a_file_is_not_a_folder(folder):
    with pytest.raises(ValueError, match="name the folder"):
        load_checkpoint(folder / "model.safetensors")


def test_an_unknown_storage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="permitted: float32, bfloat16"):
        save_checkpoint(tmp_path / "m", tiny(), card="", storage="int8")


# ---------------------------------------------------------------- saving loses nothing


def test_a_save_never_deletes_what_is_not_a_checkpoints(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        save_checkpoint(tmp_path, tiny(), card="")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


class Killed(BaseException):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("operation", range(12))
def test_killed_at_any_operation_of_a_save_a_whole_checkpoint_is_left(folder, monkeypatch, operation):
    """Every rename, removal and fsync of a save in turn is the last thing that happens."""
    old = load_checkpoint(folder)[0]
    new = tiny()
    with torch.no_grad():
        new.head.weight.add_(1.0)
    done = 0

    def dying(function):
        def call(*args, **kwargs):
            nonlocal done
            if done == operation:
                raise Killed
            done += 1
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "rename", dying(os.rename))
        patch.setattr(storage.os, "fsync", dying(os.fsync))
        patch.setattr(storage.shutil, "rmtree", dying(storage.shutil.rmtree))
        with contextlib.suppress(Killed):
            save_checkpoint(folder, new, card="new")
    found = load_checkpoint(folder)[0].head.weight
    assert torch.equal(found, old.head.weight) or torch.equal(found, new.head.weight)
    save_checkpoint(folder, new, card="newer")  # what the kill left does not disturb the next save
    assert torch.equal(load_checkpoint(folder)[0].head.weight, new.head.weight)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# ---------------------------------------------------------------- bundled, card


def test_bundled_names_are_found_by_name(folder, tmp_path, monkeypatch):
    shelf = tmp_path / "assets"
    (shelf / "checkpoints").mkdir(parents=True)
    (shelf / "gpt2.tiktoken").symlink_to(assets.path("gpt2.tiktoken"))
    os.rename(folder, shelf / "checkpoints" / "my-model")
    monkeypatch.setenv("DIFFUAPRIEL_ASSETS", str(shelf))
    assert bundled() == ["my-model"]
    assert load_checkpoint("my-model")[0].config.d_model == 16
    with pytest.raises(FileNotFoundError, match=r"bundled \(my-model\)"):
        load_checkpoint("other")


@pytest.mark.parametrize("name", bundled())
def test_every_bundled_checkpoint_loads_and_is_small(name):
    info = inspect_checkpoint(name)
    model, tokenizer = load_checkpoint(name)
    assert model.config == info.config and tokenizer.name == info.config.tokenizer
    assert all(file.stat().st_size <= 16_000_000 for file in info.folder.iterdir())
    assert "license: mit" in (info.folder / "README.md").read_text()


def test_the_card_tells_recipe_measurements_and_limits():
    card = write_card(
        name="tales-diffuapriel",
        config=tiny().config,
        parameters=1234567,
        recipe={"corpus": "tales:3", "tokens": 10_000_000},
        evaluation={"nats_per_token": 0.51234, "ci95": (0.5, 0.52), "bits_per_byte": None},
        samples={"grammatical": 0.97},
        command="diffuapriel train --recipe tales-laptop",
        limits=["Knows no words but the tales'."],
        picture="loss.png",
    )
    assert card.startswith("---\nlicense: mit\n")
    for piece in (
        "1,234,567",
        "10,000,000",
        "0.5123",
        "0.5 to 0.52",
        "0.97",
        "--recipe tales-laptop",
        "loss.png",
    ):
        assert piece in card
    assert "Knows no words" in card and "bits per byte" not in card
