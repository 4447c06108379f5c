"""Data that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
