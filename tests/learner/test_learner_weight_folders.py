"""Directories of weights, here and on the Hugging Face Hub, without transformers: what is taken, what is refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weight_cases import BATCH_NORM, SWIN, network_of, plus_one

from raytune_m2f.config import Config
from raytune_m2f.errors import ConfigError, MissingDependencyError, ModelError
from raytune_m2f.learner.transformers_names import THEIRS, from_transformers, to_transformers
from raytune_m2f.learner.weight_files import check_source, read_state_dict
from raytune_m2f.learner.weights import load_weights

WEIGHTS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
CONFIG = json.dumps({"model_type": "mask2former"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(CONFIG)
    return tmp_path / "model"


def require_weights(source: str) -> None:
    check_source(source)
    state = read_state_dict(source)
    assert sorted(state) == ["a", "b"]
    for name, value in WEIGHTS.items():
        assert torch.equal(state[name], value), name


def index(folder: Path, name: str, **parts: str) -> None:
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": parts}))


def test_safetensors_are_read_by_themselves_too(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    require_weights(str(folder))
    require_weights(str(folder / "model.safetensors"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_torchs_files_are_read(folder: Path, name: str) -> None:
    """Those of transformers, and an export of ours."""
    torch.save(WEIGHTS if name.endswith("bin") else {"model": WEIGHTS}, folder / name)
    require_weights(str(folder))


def test_a_model_in_parts_is_put_together(folder: Path) -> None:
    for part, name in (("1", "a"), ("2", "b")):
        save_file({name: WEIGHTS[name]}, folder / f"model-{part}.safetensors")
    index(folder, "model.safetensors", a="model-1.safetensors", b="model-2.safetensors")
    require_weights(str(folder))
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        check_source(str(folder))
    index(folder, "model.safetensors", a="../model-1.safetensors")
    with pytest.raises(ModelError, match="names files outside the directory"):
        check_source(str(folder))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no weights: none of model.safetensors, .* is there. Give the directory of an export"),
        ({"config.json": '{"model_type": "detr"}'}, "is a detr of transformers', allowed: a mask2former"),
        ({"config.json": '{"model_type": "mask2former", "pre_norm": true}'}, "normalises before each block"),
        ({"config.json": "{"}, r"config\.json cannot be read"),
        ({"config.json": "[]"}, r"config\.json holds a list, allowed: an object"),
    ],
)
def test_another_directory_is_refused_at_once(folder: Path, files: dict[str, str], message: str) -> None:
    if files:
        save_file(WEIGHTS, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name).write_text(content)
    for look in (check_source, read_state_dict):
        with pytest.raises(ModelError, match=message):
            look(str(folder))


def test_a_file_that_is_cut_short_is_named(folder: Path) -> None:
    save_file(WEIGHTS, folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"cannot be read: model\.safetensors: ") as found:
        read_state_dict(str(folder))
    assert "\n" not in str(found.value)


REPOSITORY, COMMIT = "somebody/mask2former", "1" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of huggingface.co as one download asks for; `server.files` is what the repository holds."""

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, *, body: bool) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        owner, name, _, revision, file = [*self.path.strip("/").split("/"), "", "", "", "", ""][:5]
        known = f"{owner}/{name}" == REPOSITORY
        content = server.files.get(file) if known and revision in ("main", "v1", COMMIT) else None
        self.send_response(404 if content is None else 200)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        elif content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if revision != "v2" else "RevisionNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with one repository, and an empty cache."""
    from huggingface_hub import constants

    save_file(WEIGHTS, folder / "model.safetensors")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        server: Any = running
        server.files, server.asked = {path.name: path.read_bytes() for path in folder.iterdir()}, []
        monkeypatch.setenv("no_proxy", "*")
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield server
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_the_hub_is_asked_once(hub: Any, revision: str) -> None:
    require_weights(f"hf://{REPOSITORY}{revision}")
    assert f"/{REPOSITORY}/resolve/{revision.removeprefix('@') or 'main'}/model.safetensors" in hub.asked
    asked = len(hub.asked)
    require_weights(f"hf://{REPOSITORY}{revision}")  # from the cache
    assert len(hub.asked) == asked


def test_the_hubs_older_files_are_found(hub: Any, tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.bin")
    hub.files = {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes(), "config.json": CONFIG.encode()}
    require_weights(f"hf://{REPOSITORY}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://nobody/nothing", "there is no such repository, or it is private: log in by `hf auth login`"),
        (f"hf://{REPOSITORY}@v2", "there is no such revision"),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub: Any, source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_state_dict(source)


def test_a_repository_without_weights_is_said(hub: Any) -> None:
    hub.files = {"config.json": CONFIG.encode()}
    with pytest.raises(ModelError, match="has no weights"):
        read_state_dict(f"hf://{REPOSITORY}")


def test_neither_cache_nor_network_is_one_clear_error(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = r"not in the cache of this machine \(.*cache\).*HF_HUB_OFFLINE is set.*--local-dir DIR"
    with pytest.raises(ModelError, match=said) as found:
        read_state_dict(f"hf://{REPOSITORY}")
    assert "\n" not in str(found.value)
    assert hub.asked == []


def test_without_its_package_it_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'raytune-m2f\[transformers\]'"):
        check_source(f"hf://{REPOSITORY}")


@pytest.mark.parametrize("source", ["hf://mask2former", "hf://a/b/c", "hf://a/b@", "hf://"])
def test_an_address_of_another_form_is_refused_by_the_configuration(tiny_config: Config, source: str) -> None:
    with pytest.raises(ConfigError, match="allowed: hf://owner/name or hf://owner/name@revision"):
        tiny_config.with_values({"MODEL.WEIGHTS": source})
    assert tiny_config.with_values({"MODEL.WEIGHTS": f"hf://{REPOSITORY}@v1"}).MODEL.WEIGHTS.endswith("@v1")


@pytest.mark.parametrize("values", [SWIN, {**BATCH_NORM, "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": True}])
def test_names_go_there_and_back(tiny_config: Config, values: dict[str, Any]) -> None:
    state = plus_one(network_of(tiny_config, {**values, "MODEL.MASK_FORMER.DEC_LAYERS": 5}).state_dict())
    head = "sem_seg_head.predictor.color_embed."
    state = without_head(state)
    theirs = to_transformers(state)
    assert all(THEIRS.match(name) or name.startswith("class_predictor.") for name in theirs)
    back = from_transformers(theirs)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name
    with pytest.raises(KeyError, match="color_embed"):
        to_transformers({f"{head}weight": torch.zeros(1)})


def test_pixels_of_another_scale_are_said(tiny_config: Config, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = network_of(tiny_config, BATCH_NORM)
    save_file(to_transformers(without_head(source.state_dict())), folder / "model.safetensors")
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    caplog.set_level(logging.WARNING, logger="raytune_m2f")
    loaded = load_weights(network_of(tiny_config, BATCH_NORM), str(folder))
    assert all("color_embed" in name for name in loaded.fresh)
    assert loaded.unused == ()
    said = "was trained with MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]; here it is [123.675, 116.28, 103.53]"
    assert said in caplog.text
    assert "PIXEL_STD" not in caplog.text


def without_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if "color_embed" not in name}
