"""Whatever the annotation file or the configuration: findings, or our one error; each finding is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faults import PARTS, copied, sound_config
from hypothesis import strategies as st
from test_fuzz import changed, fuzz

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import generate_shapes
from raytune_m2f.doctor.examine import CHECKS, examine
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.study.space import load_space

LOOKS = tuple(check for check in CHECKS if check.needs != "learner")  # as `tune` does
LEVELS = {"ok", "warning", "problem", "skipped"}

VALUES: dict[type, list[Any]] = {
    bool: [True, False],
    int: [0, 1, 2, 3, 7, 32, 64, 100, 5000, 10**6],
    float: [0.0, 1e-9, 1e-3, 0.05, 0.5, 0.99, 1.0, 3.0, 100.0],
    str: ["none", "heatmap", "sum", "any", "linear", "sqrt", "effective_number", "BN", "SyncBN", "GN", "FrozenBN",
          "WarmupMultiStepLR", "WarmupPolyLR", "build_resnet_backbone", "D2SwinTransformer", "", "/no/such.pth"],
}  # fmt: skip
KEYS = [
    key
    for key, value in load_config("demo").flatten().items()
    if type(value) in VALUES and not key.startswith(("DATASETS.", "ENGINE"))
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return generate_shapes(
        tmp_path_factory.mktemp("shapes"), train_images=4, val_images=2, image_size=48, max_instances=2
    )


def examined(config: Config) -> None:
    found = list(examine(Subject(config, space=load_space("queries", config)), LOOKS))
    assert {finding.check for finding in found} >= {"configuration/losses"}
    for finding in found:
        assert finding.level in LEVELS
        assert finding.figure
        assert finding.remedy or finding.level not in ("warning", "problem")
        json.dumps(finding.to_dict(), allow_nan=False)


@fuzz(30)
def test_annotations(data: st.DataObject, shapes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = copied(shapes, tmp_path_factory.mktemp("copy"))
    part = data.draw(st.sampled_from(PARTS))
    file = dataset[f"{part}_annotations"]
    file.write_bytes(changed(data, file.read_bytes()))
    examined(sound_config(dataset))


@fuzz(25)
def test_geometry(data: st.DataObject, shapes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Numbers that are no nonsense, but no outlines either."""
    dataset = copied(shapes, tmp_path_factory.mktemp("copy"))
    content = json.loads(dataset["train_annotations"].read_text())
    numbers = st.one_of(st.integers(-40, 90), st.floats(-40, 90), st.sampled_from([0, 0.5, 48, 1e-9]))
    for annotation in content["annotations"][:4]:
        annotation["segmentation"] = data.draw(
            st.lists(st.lists(numbers, min_size=6, max_size=12), min_size=1, max_size=3)
        )
        annotation["bbox"] = data.draw(st.lists(st.integers(0, 60), min_size=4, max_size=4))
        annotation["area"] = data.draw(st.integers(0, 4000))
        annotation["iscrowd"] = data.draw(st.sampled_from([0, 0, 1]))
        annotation["color"] = data.draw(st.sampled_from([0, 1, None]))
    dataset["train_annotations"].write_text(json.dumps(content))
    examined(sound_config(dataset))


@fuzz(25)
def test_configurations(data: st.DataObject, shapes: dict[str, Path]) -> None:
    """Any allowed values of any keys."""
    config = sound_config(shapes)
    for key in data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=8, unique=True)):
        values = {key: data.draw(st.sampled_from(VALUES[type(config.value(key))]))}
        if not config.problems(values):
            config = config.with_values(values)
    examined(config)
