"""Keys of a configuration that nothing reads, and search spaces without what is known to work, are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import found, sound_config, the_one

from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.study.space import SearchSpace, load_space
from raytune_m2f.study.space.check import packaged_spaces

Dataset = dict[str, Path]
GROUP = "configuration/"

IDLE: list[tuple[dict[str, Any], str]] = [
    ({"MODEL__SWIN__EMBED_DIM": 192}, "MODEL.SWIN.EMBED_DIM = 192"),
    ({"MODEL__RESNETS__DEPTH": 101}, "MODEL.RESNETS.DEPTH = 101"),
    ({"MODEL__MOBILENETV3__ARCH": "large"}, "MODEL.MOBILENETV3.ARCH = large"),
    (
        {"MODEL__BACKBONE__NAME": "D2SwinTransformer", "MODEL__WEIGHTS": "", "MODEL__EFFICIENTNET_LITE__VARIANT": 2},
        "MODEL.EFFICIENTNET_LITE.VARIANT = 2",
    ),
    (
        {
            "MODEL__MASK_FORMER__QUERY_SELECTION": "none",
            "MODEL__MASK_FORMER__MASK_PRIOR": False,
            "MODEL__MASK_FORMER__BLOB_WEIGHT": 3.0,
        },
        "MODEL.MASK_FORMER.BLOB_WEIGHT = 3.0",
    ),
    (
        {"DATASETS__SUBCATEGORIES": [], "MODEL__MASK_FORMER__SUBCATEGORY_WEIGHT": 3.0},
        "there are no subcategory heads (DATASETS.SUBCATEGORIES): MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT = 3.0",
    ),
    ({"MODEL__MASK_FORMER__BALANCE_BETA": 0.9}, "MODEL.MASK_FORMER.BALANCE_BETA = 0.9"),
    ({"MODEL__MASK_FORMER__TEST__NMS_CLASS_AGNOSTIC": False}, "TEST.NMS_CLASS_AGNOSTIC = False"),
    ({"TEST__TILES__SIZE": 128}, "TEST.TILES.ENABLED is false: TEST.TILES.SIZE = 128"),
    ({"INPUT__COPY_PASTE__PROB": 0.9}, "INPUT.COPY_PASTE.PROB = 0.9"),
    ({"MODEL_EMA__DECAY": 0.9}, "MODEL_EMA.DECAY = 0.9"),
    ({"SOLVER__AMP__ENABLED": False, "SOLVER__AMP__PRECISION": "float16"}, "SOLVER.AMP.PRECISION = float16"),
    (
        {"SOLVER__CLIP_GRADIENTS__ENABLED": False, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 1.0},
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0",
    ),
    ({"INPUT__START__IMAGE_SIZE": 32}, "INPUT.START.ITERS is 0: INPUT.START.IMAGE_SIZE = 32"),
    ({"SOLVER__STEPS": [30, 60]}, "SOLVER.LR_SCHEDULER_NAME is WarmupCosineLR: SOLVER.STEPS = [30, 60]"),
    ({"SOLVER__POLY_LR_POWER": 2.0}, "SOLVER.POLY_LR_POWER = 2.0"),
    ({"SOLVER__WARMUP_ITERS": 20}, "SOLVER.WARMUP_FACTOR is 1: the rate starts at its height"),
    ({"SOLVER__REFERENCE_BATCH": 8}, "SOLVER.LR_SCALING is none: SOLVER.REFERENCE_BATCH = 8"),
]


@pytest.mark.parametrize(("values", "text"), IDLE, ids=["-".join(values) for values, _ in IDLE])
def test_a_key_without_effect_is_named(tiny_dataset: Dataset, values: dict[str, Any], text: str) -> None:
    finding = the_one(sound_config(tiny_dataset, **values), f"{GROUP}unused")
    assert finding.figure.startswith("without effect, for ")
    assert text in finding.figure


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
    batches = {"type": "int", "low": 2, "high": 4, "log": True}
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
