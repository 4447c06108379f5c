"""Reading YAML: bases, overrides, detectron2's spellings, and Mask2Former's own recipe unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from raytune_m2f.config import Config, load_config
from raytune_m2f.errors import ConfigError

# The keys and values of Mask2Former's COCO instance recipe, spelt as its two files spell them.
RECIPE_BASE = """
MODEL:
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  WEIGHTS: "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS:
    DEPTH: 50
    STEM_TYPE: "basic"
    STEM_OUT_CHANNELS: 64
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    RES5_MULTI_GRID: [1, 1, 1]
DATASETS: {TRAIN: '("coco_2017_train",)', TEST: '("coco_2017_val",)'}
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.0001
  STEPS: (327778, 355092)
  MAX_ITER: 368750
  WARMUP_FACTOR: 1.0
  WARMUP_ITERS: 10
  WEIGHT_DECAY: 0.05
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: "full_model", CLIP_VALUE: 0.01, NORM_TYPE: 2.0}
  AMP: {ENABLED: True}
INPUT: {IMAGE_SIZE: 1024, MIN_SCALE: 0.1, MAX_SCALE: 2.0, FORMAT: "RGB", DATASET_MAPPER_NAME: "coco_instance_lsj"}
TEST: {EVAL_PERIOD: 5000}
DATALOADER: {FILTER_EMPTY_ANNOTATIONS: True, NUM_WORKERS: 4}
VERSION: 2
"""
RECIPE = """
_BASE_: base.yaml
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    IGNORE_VALUE: 255
    NUM_CLASSES: 80
    LOSS_WEIGHT: 1.0
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    COMMON_STRIDE: 4
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    ENC_LAYERS: 0
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    DEC_LAYERS: 10
    TRAIN_NUM_POINTS: 12544
    OVERSAMPLE_RATIO: 3.0
    IMPORTANCE_SAMPLE_RATIO: 0.75
    TEST:
      SEMANTIC_ON: False
      INSTANCE_ON: True
      PANOPTIC_ON: False
      OVERLAP_THRESHOLD: 0.8
      OBJECT_MASK_THRESHOLD: 0.8
"""
RECIPE_DIFFERENCES = {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 80,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}
"""Our defaults are the recipe's, but for what belongs to COCO."""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def differences(config: Config) -> dict[str, object]:
    default = Config().flatten()
    return {key: value for key, value in config.flatten().items() if value != default.get(key)}


def test_the_recipe_of_mask2former_loads_and_is_our_default(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", RECIPE_BASE)
    config = load_config(write(tmp_path / "recipe.yaml", RECIPE))
    assert differences(config) == RECIPE_DIFFERENCES


def test_every_key_of_the_recipe_arrives(tmp_path: Path) -> None:
    """No key of the recipe is read and dropped: each is a key of ours, with the recipe's value."""
    write(tmp_path / "base.yaml", RECIPE_BASE)
    config = load_config(write(tmp_path / "recipe.yaml", RECIPE))
    for text in (RECIPE_BASE, RECIPE):
        stack = [("", yaml.safe_load(text))]
        while stack:
            prefix, node = stack.pop()
            for key, value in node.items():
                if isinstance(value, dict):
                    stack.append((f"{prefix}{key}.", value))
                elif key != "_BASE_":
                    same = config.with_values({f"{prefix}{key}": value})
                    assert same == config, f"{prefix}{key}"


@pytest.mark.reference
def test_the_real_files_of_mask2former_load_unchanged() -> None:
    folder = os.environ.get("MASK2FORMER_DIR")
    if not folder:
        pytest.skip("MASK2FORMER_DIR is not set")
    recipes = Path(folder) / "configs/coco/instance-segmentation"
    assert differences(load_config(recipes / "maskformer2_R50_bs16_50ep.yaml")) == RECIPE_DIFFERENCES
    deeper = load_config(recipes / "maskformer2_R101_bs16_50ep.yaml")
    assert deeper.MODEL.RESNETS.DEPTH == 101
    assert Path(deeper.MODEL.WEIGHTS) == recipes / "R-101.pkl"


SWINS = {
    "swin_tiny_bs16_50ep": (96, (2, 2, 6, 2), 7, "swin_tiny_patch4_window7_224.pkl"),
    "swin_small_bs16_50ep": (96, (2, 2, 18, 2), 7, "swin_small_patch4_window7_224.pkl"),
    "swin_base_384_bs16_50ep": (128, (2, 2, 18, 2), 12, "swin_base_patch4_window12_384.pkl"),
    "swin_base_IN21k_384_bs16_50ep": (128, (2, 2, 18, 2), 12, "swin_base_patch4_window12_384_22k.pkl"),
    "swin_large_IN21k_384_bs16_100ep": (192, (2, 2, 18, 2), 12, "swin_large_patch4_window12_384_22k.pkl"),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", SWINS)
def test_the_real_swin_files_of_mask2former_load_unchanged(name: str) -> None:
    folder = os.environ.get("MASK2FORMER_DIR")
    if not folder:
        pytest.skip("MASK2FORMER_DIR is not set")
    recipes = Path(folder) / "configs/coco/instance-segmentation/swin"
    assert {path.stem for path in recipes.glob("*.yaml")} == {f"maskformer2_{swin}" for swin in SWINS}
    model = load_config(recipes / f"maskformer2_{name}.yaml").MODEL
    assert model.BACKBONE.NAME == "D2SwinTransformer"
    sizes = (model.SWIN.EMBED_DIM, model.SWIN.DEPTHS, model.SWIN.WINDOW_SIZE, Path(model.WEIGHTS).name)
    assert sizes == SWINS[name]


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "empty.yaml", "# nothing\n")) == Config()


def test_a_chain_of_bases_is_read_from_the_bottom_up(tmp_path: Path) -> None:
    write(tmp_path / "a" / "bottom.yaml", "SOLVER: {BASE_LR: 0.1, MAX_ITER: 10, STEPS: [1, 2, 3]}\nSEED: 1")
    write(tmp_path / "b" / "middle.yaml", "_BASE_: ../a/bottom.yaml\nSOLVER: {BASE_LR: 0.2, STEPS: [5]}")
    top = write(tmp_path / "top.yaml", "_BASE_: b/middle.yaml\nSOLVER: {BASE_LR: 0.3}")
    config = load_config(top)
    assert (config.SOLVER.BASE_LR, config.SOLVER.MAX_ITER, config.SEED) == (0.3, 10, 1)
    assert config.SOLVER.STEPS == (5,)  # lists are replaced, not joined


def test_a_circle_of_bases_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "_BASE_: b.yaml")
    write(tmp_path / "b.yaml", "_BASE_: a.yaml")
    with pytest.raises(ConfigError, match=r"b\.yaml: _BASE_: a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("missing.yaml", r"top\.yaml: _BASE_: got 'missing\.yaml', but there is no file .*missing\.yaml"),
        ("[a.yaml, b.yaml]", r"top\.yaml: _BASE_: got \['a\.yaml', 'b\.yaml'\], allowed: the path of one YAML file"),
        ("$NOT_SET_AT_ALL/a.yaml", r"top\.yaml: _BASE_: .*NOT_SET_AT_ALL is not set"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, base: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path / "top.yaml", f"_BASE_: {base}"))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("SOLVER.BASE_LR=1e-3", "SOLVER.BASE_LR", 1e-3),  # text to PyYAML
        ("SOLVER.BASE_LR=1", "SOLVER.BASE_LR", 1.0),
        ("SOLVER.BASE_LR='0.1'", "SOLVER.BASE_LR", 0.1),
        ("SOLVER.STEPS=(100, 200)", "SOLVER.STEPS", (100, 200)),  # text to YAML
        ("SOLVER.STEPS=[100, 200]", "SOLVER.STEPS", (100, 200)),
        ("SOLVER.STEPS=100,200", "SOLVER.STEPS", (100, 200)),
        ("SOLVER.STEPS=[]", "SOLVER.STEPS", ()),
        ('DATASETS.TRAIN=("shapes",)', "DATASETS.TRAIN", ("shapes",)),
        ("DATASETS.SUBCATEGORIES=[color, texture]", "DATASETS.SUBCATEGORIES", ("color", "texture")),
        ("MODEL.PIXEL_MEAN=[1, 2e0, 3.5]", "MODEL.PIXEL_MEAN", (1.0, 2.0, 3.5)),
        ("SOLVER.AMP.ENABLED=False", "SOLVER.AMP.ENABLED", False),
        ("SOLVER.AMP.ENABLED='True'", "SOLVER.AMP.ENABLED", True),
        ("MODEL.SEM_SEG_HEAD.NORM=", "MODEL.SEM_SEG_HEAD.NORM", ""),
        (" SEED = 3 ", "SEED", 3),
    ],
)
def test_an_override_is_read_as_yaml_and_as_detectron2_would(
    tmp_path: Path, override: str, key: str, value: object
) -> None:
    config = load_config(write(tmp_path / "c.yaml", "SOLVER: {AMP: {PRECISION: float16}}"), [override])
    assert config.value(key) == value
    assert type(config.value(key)) is type(value)
    assert config.SOLVER.AMP.PRECISION == "float16"  # a sibling stays


def test_the_last_override_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "SEED: 1")
    assert load_config(path, ["SEED=2", "SEED=3"]).SEED == 3


@pytest.mark.parametrize("override", ["SEED", "=3", "SOLVER.STEPS=[1", ""])
def test_an_override_that_is_none_is_named(tmp_path: Path, override: str) -> None:
    path = write(tmp_path / "c.yaml", "")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert f"command line: got {override!r}; " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  BASE_LR: 1\nSEED: 1\nSOLVER:\n  GAMMA: 1\n", r"line 4, column 1: 'SOLVER' is given twice"),
        ("SOLVER: [1", r"not valid YAML: line 1"),
        ("- SOLVER", r"got list at the top of the file, allowed: lines of `KEY: value`"),
        (
            "a: !!python/object/apply:os.getcwd []",
            r"line 1, column 4: .*getcwd would run Python, .*write the value itself",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError, match=rf"bad\.yaml: .*{message}"):
        load_config(path)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "demo.yaml", "")
    with pytest.raises(ConfigError, match=r"dmo\.yaml: no such file; did you mean .*demo\.yaml\?"):
        load_config(tmp_path / "dmo.yaml")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read as text"):
        load_config(tmp_path / "c.yaml")
