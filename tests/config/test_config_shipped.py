"""The configurations that ship with the package load, and say what they mean to say."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from model import MobileNetV3, ResNet, SwinTransformer
from raytune_m2f.config import Config, load_config
from raytune_m2f.data import Categories
from raytune_m2f.learner.build import build_network
from raytune_m2f.learner.weight_files import check_source

SHIPPED = sorted(Path(str(files("configs"))).glob("*.yaml"))


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_DATA", "/data")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_complete(path: Path) -> None:
    config = load_config(path)
    for name in (*config.DATASETS.TRAIN, *config.DATASETS.TEST):
        assert config.dataset(name).annotations.is_absolute()
    assert config.DATASETS.TRAIN
    assert config.DATASETS.TEST
    assert path.read_text().startswith("# "), "a configuration opens with what it is for"
    assert "raytune-m2f" in path.read_text(), "and with a command"


def test_the_published_recipe_is_the_default_one() -> None:
    config = load_config(next(path for path in SHIPPED if path.stem == "maskformer2_R50_instance"))
    default = Config().flatten()
    different = {key for key, value in config.flatten().items() if value != default.get(key)}
    assert {key for key in different if not key.startswith("DATASETS.")} == {"MODEL.META_ARCHITECTURE"}


def test_the_demo_needs_no_variable_and_leaves_something_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYTUNE_M2F_DATA")
    demo = next(path for path in SHIPPED if path.stem == "demo")
    config = load_config(demo)
    assert config.SOLVER.BASE_LR == 1e-4
    assert config.DATASETS.SUBCATEGORIES == ("color", "texture")
    assert config.dataset("shapes_train").annotations == demo.parent / "data/train.json"


BACKBONES = {
    "R18": (ResNet, 11.2),
    "R34": (ResNet, 21.3),
    "R50": (ResNet, 23.5),
    "R101": (ResNet, 42.5),
    "mobilenet_v3_small": (MobileNetV3, 0.9),
    "mobilenet_v3_large": (MobileNetV3, 3.0),
    "swin_tiny": (SwinTransformer, 27.5),
    "swin_small": (SwinTransformer, 48.8),
    "swin_base": (SwinTransformer, 86.9),
    "swin_large": (SwinTransformer, 195.2),
}
"""The files named after a backbone, with its class and its millions of weights."""


def test_there_is_a_file_for_each_backbone() -> None:
    assert {path.stem for path in SHIPPED if path.stem.startswith("maskformer2")} == {
        f"maskformer2_{name}_instance" for name in BACKBONES
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_the_file_of_a_backbone_builds_it(name: str) -> None:
    path = next(path for path in SHIPPED if path.stem == f"maskformer2_{name}_instance")
    config = load_config(path)
    with torch.device("meta"):  # no memory, no time
        network = build_network(config, Categories(ids=(1,), names=("a",), subcategories={"color": ("x", "y")}))
    kind, millions = BACKBONES[name]
    assert isinstance(network.backbone, kind)
    stored = network.backbone.state_dict()
    learned = [value for key, value in stored.items() if not key.endswith(("running_mean", "running_var", "_index"))]
    assert sum(value.numel() for value in learned) / 1e6 == pytest.approx(millions, abs=0.06)
    check_source(config.MODEL.WEIGHTS)  # of torchvision's names: that there are such weights
    assert f"--config configs/{path.name}" in path.read_text(), "the command names the file itself"
    assert "Expected: " in path.read_text()
