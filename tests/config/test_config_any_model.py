"""Keys of any network of detectron2's: detectron2 says what they are and what they allow (pytest -m detectron2)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.config import Config, load_config
from raytune_m2f.errors import ConfigError
from raytune_m2f.study.space import load_space

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

SIZE = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
SHIPPED = sorted(Path(str(files("configs"))).glob("detectron2/*.yaml"))


@pytest.fixture
def config() -> Config:
    return Config.from_dict({"ENGINE": "detectron2", "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN"}})


def test_every_key_has_detectron2s_default(config: Config) -> None:
    assert config.value(SIZE) == 512
    assert config.value("SOLVER.MOMENTUM") == 0.9
    assert config.value("MODEL.ANCHOR_GENERATOR.SIZES") == [[32, 64, 128, 256, 512]]
    assert config.SOLVER.MAX_ITER == 40_000
    assert config.SEED == 0
    assert not config.knows("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES")


def test_values_survive_yaml_and_are_replaced(config: Config, tmp_path: Path) -> None:
    changed = config.with_values({SIZE: 64, "SOLVER.BASE_LR": 1, "INPUT.MIN_SIZE_TRAIN": [64, 96]})
    assert (changed.value(SIZE), changed.SOLVER.BASE_LR) == (64, 1.0)
    (tmp_path / "config.yaml").write_text(changed.to_yaml())
    assert load_config(tmp_path / "config.yaml") == changed
    assert Config.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (f"{SIZE}S", 3, f"non-existent config key of detectron2; did you mean {SIZE}?"),
        ("MODEL.MASK_FORMER.TEST.NMS_THRESHOLD", 0.5, "non-existent config key of detectron2"),
        ("MODEL.MASK_FORMER.NHEADS", 8, "non-existent config key of detectron2"),
        (SIZE, "many", "detectron2 refuses it: Type mismatch"),
        ("MODEL.RPN", 3, "a section; name a key in it, such as MODEL.RPN."),
        ("DATALOADER.SAMPLER_TRAIN", "Other", "got 'Other', allowed: 'TrainingSampler' or"),
        ("MODEL", 3, "got 3, allowed: a section with META_ARCHITECTURE"),
        ("SOLVER.MAX_ITER", 0, "got 0, allowed: a whole number from 1"),
        ("DATASETS.SUBCATEGORIES", ["color"], "only MultiTaskMaskFormer has them"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", True, "not honoured here: remove it; a batch must depend"),
        ("MODEL.KEYPOINT_ON", True, "not honoured here"),
        ("TEST.AUG.ENABLED", True, "no test-time augmentation"),
        ("OUTPUT_DIR", "elsewhere", "--output of train"),
        ("SEED", -1, "got -1"),
    ],
)
def test_what_nobody_honours_is_refused(config: Config, key: str, value: Any, message: str) -> None:
    lines = config.problems({key: value}, source="t")
    assert any(message in line for line in lines), lines
    assert any(line.startswith(f"t: {key}") for line in lines)


def test_a_file_is_named_with_all_its_problems(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "ENGINE: detectron2\nMODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {NUM_CLASS: 3}}\nSOLVER: {MAX_ITER: -3}\n"
    )
    with pytest.raises(ConfigError, match=r"2 problems:\n.*c\.yaml: MODEL\.RETINANET\.NUM_CLASS: .*did you mean"):
        load_config(tmp_path / "c.yaml")


def test_a_users_module_adds_keys(tmp_path: Path) -> None:
    (tmp_path / "own_keys.py").write_text("def add_config(cfg):\n    cfg.MODEL.OWN_WIDTH = 8\n")
    (tmp_path / "c.yaml").write_text(
        "ENGINE: detectron2\nDATASETS: {IMPORT: [own_keys.py]}\nMODEL: {META_ARCHITECTURE: Own, OWN_WIDTH: 16}\n"
    )
    assert load_config(tmp_path / "c.yaml").value("MODEL.OWN_WIDTH") == 16


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_with_their_spaces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_DATA", "/data")
    config = load_config(path)
    assert f"--config configs/detectron2/{path.name}" in path.read_text()
    space = load_space(Path(str(files("search_spaces"))) / "detectron2/mask_rcnn.yaml", config)
    assert space.contains(space.own_values(config)) == []


def test_detectron2s_own_file_is_a_base(tmp_path: Path) -> None:
    import detectron2

    own = Path(detectron2.__file__).parents[1] / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    if not own.is_file():
        pytest.skip("detectron2 is installed without its configs")
    (tmp_path / "c.yaml").write_text(f"_BASE_: {own}\nENGINE: detectron2\nSOLVER: {{MAX_ITER: 10, STEPS: []}}\n")
    config = load_config(tmp_path / "c.yaml", ["SOLVER.BASE_LR=1e-3"])
    assert config.value("MODEL.RESNETS.DEPTH") == 50
    assert config.value("MODEL.RPN.PRE_NMS_TOPK_TRAIN") == 2000
    assert config.SOLVER.BASE_LR == 1e-3
    assert config.DATASETS.TEST == ("coco_2017_val",)
