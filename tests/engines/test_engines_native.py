"""The native engine keeps the contract, and says what is wrong with a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.errors import ConfigError
from raytune_m2f.testing.engine_conformance import EngineConformance, assert_same


class TestNativeEngine(EngineConformance):
    @pytest.fixture
    def engine(self, tiny_config: Config) -> Engine:
        return build_engine(tiny_config)


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
    assert len(two.train) == len(one.train) + len(one.test)  # type: ignore[attr-defined]


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


def test_an_engine_that_is_not_there_is_refused(tiny_config: Config) -> None:
    with pytest.raises(ConfigError, match="ENGINE = 'detectron2'"):
        build_engine(tiny_config.with_values({"ENGINE": "detectron2"}, source="test"))
