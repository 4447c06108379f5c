"""Mistakes of a configuration, each put into a sound one, and named; and what is shipped, which has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import changed, found, named, sound_config, the_one

from raytune_m2f.config import load_config
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.subject import Subject

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
    (
        {"MODEL__WEIGHTS": "", "MODEL__EFFICIENTNET_LITE__NORM": "BN", "SOLVER__BACKBONE_MULTIPLIER": 1.0},
        "weights",
        'MODEL.WEIGHTS is "": the network starts from nothing, with 12 training images',
    ),
    ({"MODEL__WEIGHTS": "/no/such.pth"}, "weights", "/no/such.pth' is not a file on this machine"),
    ({"SOLVER__WEIGHT_DECAY": 10.0}, "optimizer", "SOLVER.WEIGHT_DECAY is 10, published is 0.05"),
    ({"SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 1e-9}, "optimizer", "CLIP_VALUE is 1e-09, published is 0.01"),
    ({"SOLVER__BACKBONE_MULTIPLIER": 0.0}, "optimizer", "SOLVER.BACKBONE_MULTIPLIER is 0"),
    (
        {"MODEL_EMA__ENABLED": True, "MODEL_EMA__DECAY": 0.999, "MODEL_EMA__DECAY_WARM_UP_FACTOR": -1},
        "evaluation",
        "91% of the averaged weights are still the first ones after 90 iterations",
    ),
    ({"MODEL__MASK_FORMER__TEST__CLASS_THRESHOLD": 0.8}, "evaluation", "TEST.CLASS_THRESHOLD is 0.8"),
    ({"MODEL__MASK_FORMER__TEST__SUBCATEGORY_THRESHOLD": 0.9}, "evaluation", "TEST.SUBCATEGORY_THRESHOLD is 0.9"),
    ({"MODEL__MASK_FORMER__TEST__NMS_THRESHOLD": 0.1}, "evaluation", "TEST.NMS_THRESHOLD is 0.1"),
    ({"TEST__SUBSET": 3}, "evaluation", "TEST.SUBSET = 3: all scores but the last are of 3 images with "),
    ({"INPUT__MIN_SIZE_TEST": 256, "INPUT__MAX_SIZE_TEST": 256}, "sizes", "is 256 pixels in the network, of a "),
    ({"INPUT__MIN_SIZE_TEST": 32, "INPUT__MAX_SIZE_TEST": 32}, "sizes", "is 32 pixels in the network, of a "),
]


@pytest.mark.parametrize(("values", "check", "text"), MISTAKES, ids=[f"{m[1]}-{'-'.join(m[0])}" for m in MISTAKES])
def test_a_mistake_is_named(tiny_dataset: Dataset, values: dict[str, Any], check: str, text: str) -> None:
    finding = the_one(sound_config(tiny_dataset, **values), f"{GROUP}{check}")
    assert finding.check == f"{GROUP}{check}"
    assert text in finding.figure


def test_averages_and_sieves_that_are_meant_have_no_warning(tiny_dataset: Dataset) -> None:
    """As docs/recipe.md and docs/tuning.md have them."""
    test = "MODEL__MASK_FORMER__TEST__"
    values: dict[str, Any] = {"MODEL_EMA__ENABLED": True, f"{test}CLASS_THRESHOLD": 0.1, f"{test}NMS_THRESHOLD": 0.5}
    assert not found(sound_config(tiny_dataset, **values), GROUP)


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


def test_a_test_set_of_two_images_is_named(tiny_dataset: Dataset, tmp_path: Path) -> None:
    def two_images(content: dict[str, Any]) -> None:
        content["images"] = content["images"][:2]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]

    data = changed(tiny_dataset, tmp_path, two_images, "val")
    assert "the test set has 2 images" in the_one(sound_config(data), f"{GROUP}evaluation").figure
