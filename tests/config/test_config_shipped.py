"""The configurations that ship with the package load, and say what they mean to say."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from raytune_m2f.config import Config, load_config
from raytune_m2f.config.load import find_config
from raytune_m2f.data import Categories
from raytune_m2f.errors import ConfigError
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.model import EfficientNetLite, MobileNetV3, ResNet, SwinTransformer

SHIPPED = sorted(Path(str(files("configs"))).glob("*.yaml"))
BASES = [path for path in SHIPPED if path.stem.startswith(("maskformer2_", "efficientnet_", "small_data"))]
EXPERIMENTS = [path for path in SHIPPED if path not in BASES]


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_DATA", "/data")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_opens_with_what_it_is_for_and_with_a_command(path: Path) -> None:
    assert path.read_text().startswith("# ")
    assert "#   raytune-m2f " in path.read_text()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_has_its_data(path: Path) -> None:
    config = load_config(path)
    for name in (*config.DATASETS.TRAIN, *config.DATASETS.TEST):
        assert config.dataset(name).annotations.is_absolute()
    assert config.DATASETS.TRAIN
    assert config.DATASETS.TEST


OWN_DATA = """
DATASETS:
  REGISTER:
    fruit_train: {annotations: data/train.json, images: data/train}
    fruit_val:   {annotations: data/val.json,   images: data/val}
  TRAIN: [fruit_train]
  TEST: [fruit_val]
  SUBCATEGORIES: [ripeness, damage]
"""


@pytest.mark.parametrize("spelling", ["{}", "{}.yaml", "configs/{}.yaml"])
@pytest.mark.parametrize("base", [path.stem for path in BASES])
def test_own_data_on_a_base_by_name_need_no_variable(
    base: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYTUNE_M2F_DATA")
    (tmp_path / "my.yaml").write_text(f"_BASE_: {spelling.format(base)}{OWN_DATA}")
    config = load_config(tmp_path / "my.yaml")
    assert list(config.DATASETS.REGISTER) == ["fruit_train", "fruit_val"]
    assert config.dataset("fruit_train").images == tmp_path / "data/train"
    bare = load_config(base)
    assert config.with_values({"DATASETS.REGISTER": {}}).MODEL == bare.MODEL
    assert not bare.DATASETS.REGISTER
    assert not bare.DATASETS.TRAIN


def test_a_file_of_the_users_wins_over_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("small_data.yaml").SOLVER.MAX_ITER == load_config("small_data").SOLVER.MAX_ITER
    Path("small_data.yaml").write_text("SOLVER: {MAX_ITER: 7, STEPS: []}")
    Path("top.yaml").write_text("_BASE_: small_data.yaml")
    assert load_config("small_data.yaml").SOLVER.MAX_ITER == 7
    assert load_config("top.yaml").SOLVER.MAX_ITER == 7
    assert load_config("small_data").SOLVER.MAX_ITER != 7


def test_a_folder_below_is_a_part_of_the_name() -> None:
    assert find_config("detectron2/fruits_nuts_mask_rcnn").name == "fruits_nuts_mask_rcnn.yaml"


def test_a_name_that_is_none_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("maskformer_R50_instance")
    assert "maskformer_R50_instance: no such file. Did you mean maskformer2_R50_instance?" in str(caught.value)
    assert "small_data" in str(caught.value)
    (tmp_path / "my.yaml").write_text("_BASE_: smal_data")
    with pytest.raises(ConfigError, match=r"my\.yaml: _BASE_: got 'smal_data', but there is no file .* small_data\?"):
        load_config(tmp_path / "my.yaml")


def test_small_data_trains_on_a_cpu_and_needs_no_download() -> None:
    config = load_config("small_data")
    assert config.MODEL.WEIGHTS.startswith("package://")
    assert config.MODEL.MASK_FORMER.MASK_PRIOR
    assert config.INPUT.IMAGE_SIZE <= 256
    assert config.SOLVER.MAX_ITER <= 1000
    assert config.SOLVER.MAX_ITER % config.TEST.EVAL_PERIOD == 0
    assert 3 * config.TEST.EVAL_PERIOD <= config.SOLVER.MAX_ITER, "early stopping needs rungs"


def test_the_full_demo_is_the_demo_for_longer() -> None:
    short, full = load_config("demo").flatten(), load_config("demo_full").flatten()
    different = {key for key in full if full[key] != short[key]}
    assert different == {"SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"}


def test_the_published_recipe_is_the_default_one() -> None:
    config = load_config(next(path for path in SHIPPED if path.stem == "maskformer2_R50_instance"))
    default = Config().flatten()
    different = {key for key, value in config.flatten().items() if value != default.get(key)}
    assert {key for key in different if not key.startswith("DATASETS.")} == {"MODEL.META_ARCHITECTURE"}


def test_the_demo_needs_no_variable_and_leaves_something_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYTUNE_M2F_DATA")
    demo = next(path for path in SHIPPED if path.stem == "demo")
    config = load_config(demo)
    assert config.SOLVER.BASE_LR <= 3e-4
    assert config.DATASETS.SUBCATEGORIES == ("color", "texture")
    assert config.dataset("shapes_train").annotations == demo.parent / "data/train.json"


BACKBONES = {
    "maskformer2_R18_instance": (ResNet, 11.2),
    "maskformer2_R34_instance": (ResNet, 21.3),
    "maskformer2_R50_instance": (ResNet, 23.5),
    "maskformer2_R101_instance": (ResNet, 42.5),
    "maskformer2_mobilenet_v3_small_instance": (MobileNetV3, 0.9),
    "maskformer2_mobilenet_v3_large_instance": (MobileNetV3, 3.0),
    "maskformer2_swin_tiny_instance": (SwinTransformer, 27.5),
    "maskformer2_swin_small_instance": (SwinTransformer, 48.8),
    "maskformer2_swin_base_instance": (SwinTransformer, 86.9),
    "maskformer2_swin_large_instance": (SwinTransformer, 195.2),
    "efficientnet_lite0": (EfficientNetLite, 3.0),
}
"""The files named after a backbone, with its class and its millions of weights."""


def test_there_is_a_file_for_each_backbone() -> None:
    named = {path.stem for path in SHIPPED if path.stem.startswith(("maskformer2_", "efficientnet_"))}
    assert named == set(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_file_of_a_backbone_builds_it(name: str) -> None:
    path = next(path for path in SHIPPED if path.stem == name)
    config = load_config(path)
    with torch.device("meta"):  # no memory, no time
        network = build_network(config, Categories(ids=(1,), names=("a",), subcategories={"color": ("x", "y")}))
    kind, millions = BACKBONES[name]
    assert isinstance(network.backbone, kind)
    stored = network.backbone.state_dict()
    learned = [value for key, value in stored.items() if not key.endswith(("running_mean", "running_var", "_index"))]
    assert sum(value.numel() for value in learned) / 1e6 == pytest.approx(millions, abs=0.06)
    check_source(config.MODEL.WEIGHTS)  # of torchvision's names: that there are such weights
    assert f"`_BASE_: {path.stem}`" in path.read_text(), "how it is named"
    assert "Expected: " in path.read_text()
