"""The native engine keeps the contract, and says what is wrong with a configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.errors import ConfigError, MissingDependencyError
from raytune_m2f.evaluation.coco import precision_recall
from raytune_m2f.testing import EngineConformance, assert_same


class TestNativeEngine(EngineConformance):
    @pytest.fixture
    def engine(self, tiny_config: Config) -> Engine:
        return build_engine(tiny_config.with_values({"TEST.SUBSET": 2}))


AUGMENTED = {
    "INPUT.COLOR_AUG_SSD": True,
    "INPUT.COPY_PASTE.ENABLED": True,
    "INPUT.START.ITERS": 2,
    "INPUT.START.IMAGE_SIZE": 32,
    "INPUT.START.MAX_SCALE": 3.0,
}
"""Every augmentation that is off by default; the size changes within the training."""


class TestNativeEngineWithAllAugmentations(EngineConformance):
    @pytest.fixture
    def engine(self, tiny_config: Config) -> Engine:
        return build_engine(tiny_config.with_values({**AUGMENTED, "TEST.SUBSET": 2}))


def test_the_first_iterations_have_their_own_size(tiny_config: Config) -> None:
    engine = build_engine(tiny_config.with_values({**AUGMENTED, "TEST.SUBSET": 2}))
    for start in (0, 1, 3):  # after a break too
        batches = list(engine.train_batches(rank=0, world_size=1, start_iteration=start))
        sizes = [{tuple(sample.image.shape[1:]) for sample in batch} for batch in batches]
        assert sizes == [{(32, 32)}, {(32, 32)}, {(64, 64)}, {(64, 64)}][start:]


def changed(config: Config, **datasets: Any) -> Config:
    content = config.to_dict()
    content["DATASETS"].update(datasets)
    return Config.from_dict(content, source="test")


def test_loader_processes_give_the_same_batches(tiny_config: Config) -> None:
    with_workers = tiny_config.with_values({"DATALOADER.NUM_WORKERS": 1, "SOLVER.MAX_ITER": 1}, source="test")
    (there,) = build_engine(with_workers).train_batches(rank=0, world_size=1, start_iteration=0)
    here = next(build_engine(tiny_config).train_batches(rank=0, world_size=1, start_iteration=0))
    assert_same(there, here)


def test_several_training_sets_are_one(tiny_config: Config) -> None:
    one = build_engine(tiny_config)
    two = build_engine(changed(tiny_config, TRAIN=["train", "val"]))
    assert len(two.datasets.train) == len(one.datasets.train) + len(one.datasets.test)  # type: ignore[attr-defined]


def subset(config: Config, size: int, seed: int = 0) -> list[int]:
    engine = build_engine(config.with_values({"TEST.SUBSET": size, "SEED": seed}))
    batches = engine.test_batches(rank=0, world_size=1, subset=True)
    return [sample.image_id for batch in batches for sample in batch]


def test_a_subset_is_spread_by_the_seed_and_a_larger_one_holds_a_smaller(tiny_config: Config) -> None:
    every = subset(tiny_config, 0)
    assert len(every) == 6
    assert subset(tiny_config, 6) == subset(tiny_config, 1000) == every
    assert set(subset(tiny_config, 2)) < set(subset(tiny_config, 4)) < set(every)
    assert len({tuple(subset(tiny_config, 2, seed)) for seed in range(5)}) > 1


def test_a_subset_of_images_without_instances_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    content = tiny_config.to_dict()
    entry = content["DATASETS"]["REGISTER"]["val"]
    annotations = json.loads(Path(entry["annotations"]).read_text())
    chosen = subset(tiny_config, 2)
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] not in chosen]
    entry["annotations"] = str(tmp_path / "few.json")
    (tmp_path / "few.json").write_text(json.dumps(annotations))
    with pytest.raises(ConfigError, match=r"TEST\.SUBSET = 2 with SEED = 0 .*few\.json in which .*Raise TEST\.SUBSET"):
        subset(Config.from_dict(content, source="test"), 2)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"TRAIN": []}, "DATASETS.TRAIN is empty"),
        ({"TEST": []}, "DATASETS.TEST is empty"),
        ({"TRAIN": ["coco_2017_train"]}, "DATASETS.REGISTER"),
    ],
)
def test_missing_datasets_are_named(tiny_config: Config, datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_engine(changed(tiny_config, **datasets))


@pytest.mark.usefixtures("no_detectron2")
def test_an_engine_that_is_not_there_is_refused(tiny_config: Config) -> None:
    with pytest.raises(MissingDependencyError, match="ENGINE: detectron2 needs detectron2, which cannot be imported"):
        build_engine(tiny_config.with_values({"ENGINE": "detectron2"}, source="test"))


def test_an_evaluator_that_is_not_there_is_refused_before_anything_trains(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MissingDependencyError, match=r"TEST\.EVALUATOR: hotcoco needs hotcoco, which cannot"):
        build_engine(tiny_config)
    build_engine(tiny_config.with_values({"TEST.EVALUATOR": "pycocotools"}, source="test")).evaluator().evaluate()


@pytest.mark.parametrize("evaluator", ["hotcoco", "pycocotools"])
def test_the_configured_evaluator_computes(
    tiny_config: Config, evaluator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spy(*arguments: Any, **options: Any) -> Any:
        asked.append(options["evaluator"])
        return precision_recall(*arguments, **options)

    monkeypatch.setattr("raytune_m2f.evaluation.coco.precision_recall", spy)
    build_engine(tiny_config.with_values({"TEST.EVALUATOR": evaluator}, source="test")).evaluator().evaluate()
    assert asked == [evaluator]
