"""Mistakes of a configuration, each put into a sound one, and named; and what is shipped, which has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import found, named, sound_config, the_one

from raytune_m2f.config import Config, load_config
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.data import generate_shapes
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.study.space import SearchSpace, load_space
from raytune_m2f.study.space.check import packaged_spaces

Dataset = dict[str, Path]
GROUP = "configuration/"
WIDE = "maskformer2_R50_instance"
CONFIG_ALONE = ("learning_rate", "losses", "unused")


def test_a_sound_configuration_has_no_warning(tiny_dataset: Dataset) -> None:
    findings = list(examine(Subject(sound_config(tiny_dataset)), named(GROUP)))
    assert {finding.level for finding in findings} == {"ok", "skipped"}
    assert [finding.check for finding in findings if finding.level == "skipped"] == ["configuration/space"]


@pytest.mark.parametrize("name", [name for name in shipped_configs() if not name.startswith("detectron2/")])
def test_what_is_shipped_has_no_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_DATA", "/data")
    for check in CONFIG_ALONE:
        assert not found(load_config(name), f"{GROUP}{check}")


def test_a_rate_left_while_the_batch_was_lowered_is_named() -> None:
    """The story's first mistake: batch 16 to 2, LR left at 1e-4."""
    (finding,) = found(load_config(WIDE, {"SOLVER.IMS_PER_BATCH": 2}), f"{GROUP}learning_rate")
    assert finding.level == "warning"
    assert "the learning rate is 0.0001 at batch 2: 2.8 times as high as it should be" in finding.figure
    assert "1.3e-05 by linear and 3.5e-05 by square-root scaling" in finding.figure
    assert "The rate seems to be left as it was while the batch was lowered." in finding.meaning
    assert "SOLVER.REFERENCE_BATCH=16 SOLVER.LR_SCALING=sqrt" in finding.remedy


@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
def test_a_rate_that_follows_the_batch_is_right(scaling: str) -> None:
    for batch in (1, 2, 16, 128):
        values = {"SOLVER.IMS_PER_BATCH": batch, "SOLVER.LR_SCALING": scaling}
        assert not found(load_config(WIDE, values), f"{GROUP}learning_rate")


@pytest.mark.parametrize(
    ("name", "rate", "times"),
    [(WIDE, 1e-2, "100.0 times as high"), (WIDE, 1e-6, "100 times as low"), ("small_data", 1e-5, "100 times as low")],
)
def test_a_rate_far_from_both_rules_is_named(name: str, rate: float, times: str) -> None:
    assert times in the_one(load_config(name, {"SOLVER.BASE_LR": rate}), f"{GROUP}learning_rate").figure


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 1},
        "schedule",
        "2 iterations of 4 images see 67% of the 12 training images",
    ),
    ({"TEST__EVAL_PERIOD": 5000}, "schedule", "TEST.EVAL_PERIOD = 5000 is beyond SOLVER.MAX_ITER = 90"),
    (
        {"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR"},
        "schedule",
        "SOLVER.STEPS = [327778, 355092] lie beyond SOLVER.MAX_ITER = 90",
    ),
    (
        {"SOLVER__WARMUP_ITERS": 100, "SOLVER__WARMUP_FACTOR": 0.0},
        "schedule",
        "SOLVER.WARMUP_ITERS = 100 of SOLVER.MAX_ITER = 90",
    ),
    ({"INPUT__START__ITERS": 90}, "schedule", "INPUT.START.ITERS = 90 is not below SOLVER.MAX_ITER = 90"),
    (
        {"SOLVER__MAX_ITER": 2000, "SOLVER__CHECKPOINT_PERIOD": 5000, "TEST__EVAL_PERIOD": 0},
        "schedule",
        "no checkpoint before the end, of 2000 iterations",
    ),
    ({"SOLVER__IMS_PER_BATCH": 16}, "batch", "SOLVER.IMS_PER_BATCH is 16, but there are 12 images to train on"),
    (
        {"MODEL__EFFICIENTNET_LITE__NORM": "BN", "SOLVER__MICRO_BATCH": 2},
        "batch",
        "MODEL.EFFICIENTNET_LITE.NORM = BN with 2 images at once",
    ),
    (
        {"MODEL__EFFICIENTNET_LITE__NORM": "BN", "SOLVER__IMS_PER_BATCH": 1, "INPUT__IMAGE_SIZE": 32},
        "batch",
        "batch norm needs more than one value of each channel",
    ),
    ({"MODEL__MASK_FORMER__CLASS_WEIGHT": 0.0}, "losses", "CLASS_WEIGHT is 0: nothing teaches the main category"),
    ({"MODEL__MASK_FORMER__MASK_WEIGHT": 0.0}, "losses", "MASK_WEIGHT is 0: nothing teaches the masks' pixels"),
    (
        {"MODEL__MASK_FORMER__SUBCATEGORY_WEIGHT": 0.0},
        "losses",
        "SUBCATEGORY_WEIGHT is 0: nothing teaches the subcategory heads (color, texture)",
    ),
    ({"MODEL__MASK_FORMER__HEATMAP_WEIGHT": 0.0}, "losses", "HEATMAP_WEIGHT is 0: nothing teaches where objects are"),
    ({"MODEL__MASK_FORMER__DICE_WEIGHT": 0.05}, "losses", "DICE_WEIGHT is 0.05 of 7.05"),
    ({"MODEL__MASK_FORMER__NO_OBJECT_WEIGHT": 5.0}, "losses", "NO_OBJECT_WEIGHT is 5, published is 0.1"),
    ({"MODEL__MASK_FORMER__NO_OBJECT_WEIGHT": 0.001}, "losses", "NO_OBJECT_WEIGHT is 0.001, published is 0.1"),
    ({"MODEL__SWIN__EMBED_DIM": 192}, "unused", "MODEL.SWIN.EMBED_DIM = 192"),
    ({"MODEL__RESNETS__DEPTH": 101}, "unused", "MODEL.RESNETS.DEPTH = 101"),
    ({"MODEL__MOBILENETV3__ARCH": "large"}, "unused", "MODEL.MOBILENETV3.ARCH = large"),
    (
        {"MODEL__BACKBONE__NAME": "D2SwinTransformer", "MODEL__WEIGHTS": "", "MODEL__EFFICIENTNET_LITE__VARIANT": 2},
        "unused",
        "MODEL.EFFICIENTNET_LITE.VARIANT = 2",
    ),
    (
        {
            "MODEL__MASK_FORMER__QUERY_SELECTION": "none",
            "MODEL__MASK_FORMER__MASK_PRIOR": False,
            "MODEL__MASK_FORMER__BLOB_WEIGHT": 3.0,
        },
        "unused",
        "MODEL.MASK_FORMER.BLOB_WEIGHT = 3.0",
    ),
    (
        {"DATASETS__SUBCATEGORIES": [], "MODEL__MASK_FORMER__SUBCATEGORY_WEIGHT": 3.0},
        "unused",
        "there are no subcategory heads (DATASETS.SUBCATEGORIES): MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT = 3.0",
    ),
    ({"MODEL__MASK_FORMER__BALANCE_BETA": 0.9}, "unused", "MODEL.MASK_FORMER.BALANCE_BETA = 0.9"),
    ({"MODEL__MASK_FORMER__TEST__NMS_CLASS_AGNOSTIC": False}, "unused", "TEST.NMS_CLASS_AGNOSTIC = False"),
    ({"TEST__TILES__SIZE": 128}, "unused", "TEST.TILES.ENABLED is false: TEST.TILES.SIZE = 128"),
    ({"INPUT__COPY_PASTE__PROB": 0.9}, "unused", "INPUT.COPY_PASTE.PROB = 0.9"),
    ({"MODEL_EMA__DECAY": 0.9}, "unused", "MODEL_EMA.DECAY = 0.9"),
    ({"SOLVER__AMP__ENABLED": False, "SOLVER__AMP__PRECISION": "float16"}, "unused", "SOLVER.AMP.PRECISION = float16"),
    (
        {"SOLVER__CLIP_GRADIENTS__ENABLED": False, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 1.0},
        "unused",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0",
    ),
    ({"INPUT__START__IMAGE_SIZE": 32}, "unused", "INPUT.START.ITERS is 0: INPUT.START.IMAGE_SIZE = 32"),
    ({"SOLVER__STEPS": [30, 60]}, "unused", "SOLVER.LR_SCHEDULER_NAME is WarmupCosineLR: SOLVER.STEPS = [30, 60]"),
    ({"SOLVER__POLY_LR_POWER": 2.0}, "unused", "SOLVER.POLY_LR_POWER = 2.0"),
    ({"SOLVER__WARMUP_ITERS": 20}, "unused", "SOLVER.WARMUP_FACTOR is 1: the rate starts at its height"),
    ({"SOLVER__REFERENCE_BATCH": 8}, "unused", "SOLVER.LR_SCALING is none: SOLVER.REFERENCE_BATCH = 8"),
    (
        {"MODEL__WEIGHTS": "", "MODEL__EFFICIENTNET_LITE__NORM": "BN", "SOLVER__BACKBONE_MULTIPLIER": 1.0},
        "weights",
        'MODEL.WEIGHTS is "": the network starts from nothing, with 12 training images',
    ),
    ({"MODEL__WEIGHTS": "/no/such.pth"}, "weights", "/no/such.pth' is not a file on this machine"),
    ({"INPUT__MIN_SIZE_TEST": 256, "INPUT__MAX_SIZE_TEST": 256}, "sizes", "is 256 pixels in the network, of a "),
    ({"INPUT__MIN_SIZE_TEST": 32, "INPUT__MAX_SIZE_TEST": 32}, "sizes", "is 32 pixels in the network, of a "),
]


@pytest.mark.parametrize(("values", "check", "text"), MISTAKES, ids=[f"{m[1]}-{'-'.join(m[0])}" for m in MISTAKES])
def test_a_mistake_is_named(tiny_dataset: Dataset, values: dict[str, Any], check: str, text: str) -> None:
    finding = the_one(sound_config(tiny_dataset, **values), f"{GROUP}{check}")
    assert finding.check == f"{GROUP}{check}"
    assert text in finding.figure


def test_a_backbone_from_nothing_that_learns_slower_is_named(tiny_dataset: Dataset) -> None:
    values = {"MODEL__WEIGHTS": "", "MODEL__EFFICIENTNET_LITE__NORM": "BN"}
    small, slow = found(sound_config(tiny_dataset, **values), f"{GROUP}weights")
    assert "starts from nothing" in small.figure
    assert slow.figure == 'SOLVER.BACKBONE_MULTIPLIER is 0.2 with MODEL.WEIGHTS ""'


def test_pixels_of_other_weights_are_named(tiny_dataset: Dataset) -> None:
    values = {
        "MODEL__WEIGHTS": "torchvision://ResNet18_Weights.IMAGENET1K_V1",
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__RESNETS__DEPTH": 18,
    }
    finding = the_one(sound_config(tiny_dataset, **values), f"{GROUP}weights")
    assert "MODEL.PIXEL_MEAN = [127.0, 127.0, 127.0]" in finding.figure
    assert "trained with [123.675, 116.28, 103.53]" in finding.figure


@pytest.mark.parametrize(
    ("workers", "text"), [(3, "SOLVER.IMS_PER_BATCH = 4 cannot be shared evenly by 3 workers"), (8, "there are 8 work")]
)
def test_a_batch_that_does_not_fit_the_workers_is_named(tiny_dataset: Dataset, workers: int, text: str) -> None:
    assert text in the_one(Subject(sound_config(tiny_dataset), workers=workers), f"{GROUP}batch").figure
    assert not found(Subject(sound_config(tiny_dataset), workers=2), f"{GROUP}batch")


# Search spaces


def in_space(config: Config, prefix: str, **entries: dict[str, Any]) -> list[str]:
    lines = {key.replace("__", "."): entry for key, entry in entries.items()}
    subject = Subject(config, space=SearchSpace.from_dict(lines))
    return [finding.figure for finding in found(subject, prefix)]


def test_spaces_that_are_shipped_have_no_warning_if_used_as_they_say(tmp_path: Path) -> None:
    dataset = generate_shapes(tmp_path, train_images=16, val_images=4, image_size=64)
    rates = {"SOLVER__LR_SCALING": "sqrt", "SOLVER__REFERENCE_BATCH": 2}  # small_data's rate is at batch 2
    config = sound_config(dataset, **rates, SOLVER__IMS_PER_BATCH=8)
    for name in packaged_spaces():
        if name != "ablation":
            subject = Subject(config, space=load_space(name, config))
            assert [f.figure for f in found(subject, GROUP)] == [], name


def test_a_batch_that_is_searched_without_scaling_is_named(tiny_dataset: Dataset) -> None:
    batches = {"type": "categorical", "choices": [2, 4]}
    (text,) = in_space(sound_config(tiny_dataset), f"{GROUP}space", SOLVER__IMS_PER_BATCH=batches)
    assert text == "SOLVER.IMS_PER_BATCH is searched from 2 to 4 while SOLVER.LR_SCALING is none"
    scaled = sound_config(tiny_dataset, SOLVER__LR_SCALING="sqrt")
    assert in_space(scaled, f"{GROUP}space", SOLVER__IMS_PER_BATCH=batches) == []


def test_a_range_without_the_published_rate_is_named(tiny_dataset: Dataset) -> None:
    low = {"type": "loguniform", "low": 1e-7, "high": 1e-5}
    (text,) = in_space(sound_config(tiny_dataset), f"{GROUP}space", SOLVER__BASE_LR=low)
    assert "SOLVER.BASE_LR is searched where the rate is 1e-07 to 1e-05 at batch 4" in text


def test_batches_and_queries_of_a_space_are_held_against_the_data(tiny_dataset: Dataset) -> None:
    config = sound_config(tiny_dataset, SOLVER__LR_SCALING="sqrt")
    batches = {"type": "categorical", "choices": [2, 64]}
    (text,) = in_space(config, f"{GROUP}batch", SOLVER__IMS_PER_BATCH=batches)
    assert "SOLVER.IMS_PER_BATCH can be 64, but there are 12 images to train on" in text
    queries = {"type": "int", "low": 2, "high": 20}
    (text,) = in_space(config, "data/instances", MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=queries)
    assert "NUM_OBJECT_QUERIES can be 2" in text


def test_what_is_searched_in_vain_is_named(tiny_dataset: Dataset) -> None:
    sizes: dict[str, Any] = {"type": "categorical", "choices": [128, 256]}
    (text,) = in_space(sound_config(tiny_dataset), f"{GROUP}unused", INPUT__START__IMAGE_SIZE=sizes)
    assert text == "INPUT.START.IMAGE_SIZE is searched, but changes nothing: INPUT.START.ITERS is 0"
    iters: dict[str, Any] = {"type": "int", "low": 0, "high": 50}
    both = {"INPUT__START__IMAGE_SIZE": sizes, "INPUT__START__ITERS": iters}
    assert in_space(sound_config(tiny_dataset), f"{GROUP}unused", **both) == []
    # nor is what only some trials read called idle
    own = sound_config(tiny_dataset, INPUT__START__IMAGE_SIZE=48)
    assert in_space(own, f"{GROUP}unused", INPUT__START__ITERS=iters) == []
