"""The blocks of README and docs, run as they stand, in their order, on data that is not the demo's; minutes.

Only what makes them short is changed: a smaller image and fewer iterations in the file that my.yaml builds on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documented import REPOSITORY, Block, blocks
from PIL import Image

from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SMALLER = """
_BASE_: small_data
MODEL:
  SEM_SEG_HEAD: {CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1}
  MASK_FORMER: {HIDDEN_DIM: 32, DIM_FEEDFORWARD: 64, DEC_LAYERS: 3, TRAIN_NUM_POINTS: 128}
SOLVER: {MAX_ITER: 4, CHECKPOINT_PERIOD: 2, WARMUP_ITERS: 0}
INPUT: {IMAGE_SIZE: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}
TEST: {EVAL_PERIOD: 2}
"""


def block_with(document: str, text: str, languages: str = "bash") -> Block:
    (found,) = [block for block in blocks(REPOSITORY / document, languages) if text in block.text]
    return found


def run(block: Block, folder: Path) -> None:
    """The block in a shell that stops at the first command that fails."""
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment.pop("RAYTUNE_M2F_DATA", None)
    command = ["bash", "-euo", "pipefail", "-x", "-c", block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{block}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert "Traceback" not in done.stderr


def write_fruits(folder: Path) -> None:
    """Photographs of several sizes with dates and figs as the page describes them; some labels are unknown."""
    for split, count in (("train", 24), ("val", 8)):
        (folder / split).mkdir(parents=True)
        content: dict[str, Any] = {
            "images": [],
            "categories": [{"id": 1, "name": "date"}, {"id": 2, "name": "fig"}],
            "subcategories": {"ripeness": ["green", "ripe"], "damage": ["none", "bruised", "split"]},
            "annotations": [],
        }
        draw = np.random.default_rng(count)
        for number in range(1, count + 1):
            width, height = ((128, 96), (90, 120), (160, 100))[number % 3]
            pixels = draw.integers(150, 200, (height, width, 3), dtype=np.uint8)
            name = f"{number:04d}.jpg"
            for _ in range(int(draw.integers(1, 4))):
                content["annotations"].append(_fruit(pixels, draw, number, len(content["annotations"]) + 1))
            Image.fromarray(pixels).save(folder / split / name)
            content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        (folder / f"{split}.json").write_text(json.dumps(content))


def _fruit(pixels: np.ndarray[Any, Any], draw: np.random.Generator, image: int, number: int) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    x, y = int(draw.integers(0, width - 40)), int(draw.integers(0, height - 40))
    w, h = int(draw.integers(16, 38)), int(draw.integers(16, 38))
    category, ripeness = int(draw.integers(1, 3)), int(draw.integers(0, 2))
    pixels[y : y + h, x : x + w] = (90 * category, 60 + 120 * ripeness, 30)
    found = {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": [x, y, w, h], "area": w * h,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "damage": int(draw.integers(0, 3)),
    }  # fmt: skip
    return found if number % 5 == 0 else {**found, "ripeness": ripeness}


@pytest.fixture
def fruits(tmp_path: Path) -> Path:
    """A folder with my.yaml, as docs/own_data.md has it, and its data."""
    write_fruits(tmp_path / "data")
    text = block_with("docs/own_data.md", "REGISTER", "yaml").text
    assert "_BASE_: small_data" in text
    (tmp_path / "smaller.yaml").write_text(SMALLER)
    (tmp_path / "my.yaml").write_text(re.sub(r"_BASE_: small_data\b", "_BASE_: smaller.yaml", text))
    return tmp_path


def test_own_data(fruits: Path) -> None:
    run(block_with("docs/own_data.md", "raytune-m2f train"), fruits)
    assert len(list((fruits / "predictions").glob("*.png"))) == 8
    assert len(list((fruits / "study/trials").glob("*/metrics.jsonl"))) == 20
    assert "ripeness/accuracy" in (fruits / "model/metrics.json").read_text()


def test_own_data_on_the_base_as_it_is(fruits: Path) -> None:
    """The road is as long as it says; here one iteration of it."""
    (fruits / "my.yaml").write_text(block_with("docs/own_data.md", "REGISTER", "yaml").text)
    command = (
        "raytune-m2f train --config my.yaml --output out SOLVER.MAX_ITER=1 SOLVER.IMS_PER_BATCH=2 TEST.EVAL_PERIOD=1"
    )
    run(Block("docs/own_data.md", 0, "bash", command), fruits)


def test_tuning(fruits: Path) -> None:
    run(block_with("docs/tuning.md", "raytune-m2f confirm"), fruits)
    assert len(list((fruits / "studies/first/trials").iterdir())) >= 60
    assert len(list((fruits / "studies/first/confirm/trials").iterdir())) == 9


def test_the_readme_in_the_demos_folder(tmp_path: Path, tiny_config: Config) -> None:
    """What `make demo` leaves, but for a configuration of seconds."""
    data = generate_shapes(tmp_path / "demo/data", train_images=24, val_images=6)
    content = tiny_config.to_dict()
    content["DATASETS"]["REGISTER"] = {
        name: {"annotations": str(data[f"{name}_annotations"]), "images": str(data[f"{name}_images"])}
        for name in ("train", "val")
    }
    (tmp_path / "demo/demo.yaml").write_text(Config.from_dict(content, source="test").to_yaml())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()  # this environment has all of it
    run(block_with("README.md", "raytune-m2f train"), tmp_path)
    assert len(list((tmp_path / "studies/first/trials").iterdir())) == 20
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 6
    run(block_with("README.md", "raytune-m2f init"), tmp_path)
    assert (tmp_path / "project/space.yaml").is_file()
