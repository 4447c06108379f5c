"""Data that several test modules share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real datasets (fruits_nuts, nuclei_dsb, coco_cc); tests that need it are skipped without."""
    if "RAYTUNE_M2F_DATA" not in os.environ:
        pytest.skip("RAYTUNE_M2F_DATA does not say where the real datasets are")
    return Path(os.environ["RAYTUNE_M2F_DATA"])


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Synthetic shapes, 12 images to train on and 6 to validate, 64 pixels wide: the paths of `generate_shapes`.

    Made once for all tests: read it, do not write to it.
    """
    output = tmp_path_factory.mktemp("tiny_dataset")
    return generate_shapes(output, train_images=12, val_images=6, image_size=64, max_instances=4)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small Ray session for all tests that need one; whatever they leave running ends with it."""
    import ray

    from raytune_m2f.training.ray_session import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray about itself
        ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False,
                 configure_logging=False, log_to_driver=False)  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_config(tiny_dataset: dict[str, Path]) -> Config:
    """The smallest experiment on `tiny_dataset`: 4 iterations of 4 images, evaluated at 2 and 4.

    GroupNorm, for batch norm sees how a batch is split.
    """
    registered = {
        name: {"annotations": str(tiny_dataset[f"{name}_annotations"]), "images": str(tiny_dataset[f"{name}_images"])}
        for name in ("train", "val")
    }
    content = {
        "MODEL": {
            "WEIGHTS": "",
            "RESNETS": {"DEPTH": 18, "NORM": "GN"},
            "SEM_SEG_HEAD": {"CONVS_DIM": 32, "MASK_DIM": 32, "TRANSFORMER_ENC_LAYERS": 1},
            "MASK_FORMER": {
                "HIDDEN_DIM": 32,
                "NHEADS": 4,
                "DEC_LAYERS": 3,
                "DIM_FEEDFORWARD": 64,
                "NUM_OBJECT_QUERIES": 8,
                "TRAIN_NUM_POINTS": 128,
            },
        },
        "DATASETS": {
            "REGISTER": registered,
            "TRAIN": ["train"],
            "TEST": ["val"],
            "SUBCATEGORIES": ["color", "texture"],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"IMAGE_SIZE": 64, "MIN_SCALE": 0.8, "MAX_SCALE": 1.25, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 64},
        "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 4, "BASE_LR": 1e-3, "WARMUP_ITERS": 0, "BACKBONE_MULTIPLIER": 1.0},
        "TEST": {"EVAL_PERIOD": 2, "IMS_PER_BATCH": 2},
    }
    return Config.from_dict(content, source="tiny_config")
