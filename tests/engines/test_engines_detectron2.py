"""The engine of detectron2 keeps the contract, and agrees with the native one (pytest -m detectron2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.data import TestSample
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.engines.datasets import DatasetEngine
from raytune_m2f.engines.detectron2.engine import CatalogEngine
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.model import Instances
from raytune_m2f.testing import EngineConformance
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial
from raytune_m2f.visualize import ground_truth_instances

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return tiny_config.with_values({"ENGINE": "detectron2"})


class TestDetectron2Engine(EngineConformance):
    @pytest.fixture
    def engine(self, config: Config) -> Engine:
        return build_engine(config.with_values({"TEST.SUBSET": 2}))


AUGMENTED = {"INPUT.COLOR_AUG_SSD": True, "INPUT.START.ITERS": 2, "INPUT.START.IMAGE_SIZE": 32}


class TestDetectron2EngineWithAllAugmentations(EngineConformance):
    @pytest.fixture
    def engine(self, config: Config) -> Engine:
        return build_engine(config.with_values({**AUGMENTED, "TEST.SUBSET": 2}))


def test_the_first_iterations_have_their_own_size(config: Config) -> None:
    engine = build_engine(config.with_values(AUGMENTED))
    for start in (0, 1, 3):
        batches = engine.train_batches(rank=0, world_size=1, start_iteration=start)
        sizes = [{tuple(sample.image.shape[1:]) for sample in batch} for batch in batches]
        assert sizes == [{(32, 32)}, {(32, 32)}, {(64, 64)}, {(64, 64)}][start:]


def test_only_colours_change_and_not_those_of_the_padding(config: Config) -> None:
    half = config.with_values({"INPUT.MIN_SCALE": 0.5, "INPUT.MAX_SCALE": 0.5, "INPUT.RANDOM_FLIP": "none"})
    plain, colored = build_engine(half), build_engine(half.with_values({"INPUT.COLOR_AUG_SSD": True}))
    before, after = (
        [sample for batch in engine.train_batches(rank=0, world_size=1, start_iteration=0) for sample in batch]
        for engine in (plain, colored)
    )
    assert all(torch.equal(one.target.masks, other.target.masks) for one, other in zip(before, after, strict=True))
    assert all((other.image[:, 40:, 40:] == 128).all() for other in after)
    assert sum(not torch.equal(one.image, other.image) for one, other in zip(before, after, strict=True)) > 8


def test_the_same_weights_predict_the_same_in_both_engines(tiny_config: Config, config: Config) -> None:
    values = {"INPUT.MIN_SIZE_TEST": 50}  # resized, for there the engines could differ
    native, other = (build_engine(one.with_values(values)) for one in (tiny_config, config))
    learners = []
    for engine in (native, other):
        torch.manual_seed(0)
        learner = engine.learner()
        learner.model.eval()
        learners.append(learner)
    batches = (engine.test_batches(rank=0, world_size=1) for engine in (native, other))
    with torch.no_grad():
        for ours, theirs in zip(*batches, strict=True):
            assert [sample.image_id for sample in ours] == [sample.image_id for sample in theirs]
            for a, b in zip(learners[0].predict(ours), learners[1].predict(theirs), strict=True):
                torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
                assert torch.equal(a.labels, b.labels)
                assert a.masks == b.masks
                for head, probs in a.subprobs.items():
                    torch.testing.assert_close(probs, b.subprobs[head], atol=1e-4, rtol=0)


def imperfect(instances: Instances, seed: int) -> Instances:
    """The ground truth shifted, with scores, labels and subcategories that are partly wrong."""
    rng = torch.Generator().manual_seed(seed)
    count = len(instances)
    shifts = torch.randint(0, 4, (count,), generator=rng).tolist()
    masks = [mask.roll(shift, 0) for mask, shift in zip(instances.masks, shifts, strict=True)]
    return Instances(
        scores=torch.rand(count, generator=rng).sort(descending=True).values,
        labels=torch.where(torch.rand(count, generator=rng) < 0.8, instances.labels, 0),
        masks=torch.stack(masks) if masks else instances.masks,
        queries=instances.queries,
        subprobs={head: torch.rand(probs.shape, generator=rng) for head, probs in instances.subprobs.items()},
    )


def imperfect_predictions(engine: Engine, *, subset: bool) -> Iterator[tuple[TestSample, Instances]]:
    """Every test sample with its `imperfect` ground truth."""
    assert isinstance(engine, DatasetEngine)
    records = {record.id: record for record in engine.datasets.test.records}
    for samples in engine.test_batches(rank=0, world_size=1, subset=subset):
        for sample in samples:
            truth = ground_truth_instances(records[sample.image_id], engine.categories)
            yield sample, imperfect(truth, sample.image_id)


@pytest.mark.parametrize(("subset", "most"), [(False, 100), (True, 100), (False, 12)])
def test_the_same_predictions_have_the_same_metrics(
    tiny_config: Config, config: Config, subset: bool, most: int
) -> None:
    metrics = []
    values = {"TEST.SUBSET": 4, "TEST.DETECTIONS_PER_IMAGE": most}
    for engine in (build_engine(one.with_values(values)) for one in (tiny_config, config)):
        evaluator = engine.evaluator(subset=subset)
        evaluator.reset()
        for sample, instances in imperfect_predictions(engine, subset=subset):
            evaluator.process([sample], [instances])
        metrics.append(evaluator.evaluate())
    assert 10 < metrics[0]["segm/AP"] < 90
    assert metrics[0].keys() == metrics[1].keys()
    for key, value in metrics[0].items():
        assert metrics[1][key] == pytest.approx(value, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize(("subset", "most"), [(False, 100), (True, 100), (False, 12)])
def test_metrics_are_those_of_detectron2s_own_evaluator(config: Config, subset: bool, most: int) -> None:
    from detectron2.evaluation import COCOEvaluator

    from raytune_m2f.engines.detectron2.library import detectron2_instances

    engine = build_engine(config.with_values({"TEST.SUBSET": 4}))
    assert isinstance(engine, CatalogEngine)
    ours = CocoEvaluator(engine.datasets.scored(subset), tasks=("segm", "bbox"), max_detections=most)
    theirs = COCOEvaluator("val", ("segm", "bbox"), False, max_dets_per_image=most, use_fast_impl=False)
    theirs.reset()
    for sample, instances in imperfect_predictions(engine, subset=subset):
        ours.process([sample], [instances])
        theirs.process([{"image_id": sample.image_id}], [{"instances": detectron2_instances(instances)}])
    metrics = ours.evaluate()
    expected = theirs.evaluate(img_ids=[record.id for record in engine.datasets.scored(subset).records])
    for task in ("segm", "bbox"):
        assert expected[task].keys() == {"AP", "AP50", "AP75", "APs", "APm", "APl"} | {
            f"AP-{name}" for name in engine.categories.names
        }
        for name, value in expected[task].items():
            assert metrics[f"{task}/{name}"] == pytest.approx(value, abs=1e-9, nan_ok=True), (task, name)


def test_a_restart_trains_on_as_if_nothing_had_happened(config: Config, tmp_path: Path) -> None:
    whole = train_trial(config, TrialContext(tmp_path / "whole"))
    train_trial(config, TrialContext(tmp_path / "parts", report=lambda report: True))
    parts = train_trial(config, TrialContext(tmp_path / "parts"))
    for key in whole.keys() - {"seconds", "latency_ms", "memory_gb"}:
        assert parts[key] == whole[key], key


REGISTERING = """
from detectron2.data import DatasetCatalog, MetadataCatalog
from raytune_m2f.engines.detectron2 import MultiTaskMapper
import json, pathlib

def entries(part):
    folder = pathlib.Path({folder!r}) / part
    content = json.loads({files!r}[part])
    return [
        {{"file_name": str(pathlib.Path({images!r}[part]) / image["file_name"]), "image_id": image["id"],
          "height": image["height"], "width": image["width"],
          "annotations": [
              {{"bbox": a["bbox"], "bbox_mode": 1, "category_id": a["category_id"] - 1,
                "segmentation": a["segmentation"], "iscrowd": a["iscrowd"], "color": a.get("color", -1)}}
              for a in content["annotations"] if a["image_id"] == image["id"]]}}
        for image in content["images"]
    ]

for part in ("train", "val"):
    name = "own_" + part
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda part=part: entries(part))
        MetadataCatalog.get(name).set(
            thing_classes=[c["name"] for c in json.loads({files!r}[part])["categories"]],
            subcategories={{"color": json.loads({files!r}[part])["subcategories"]["color"]}})

class Mapper(MultiTaskMapper):
    def __call__(self, entry):
        mapped = super().__call__(entry)
        return {{**mapped, "image": 255 - mapped["image"]}}

def build_mapper(cfg, is_train):
    return Mapper(cfg, is_train)
"""


@pytest.fixture
def own_module(tiny_dataset: dict[str, Path], tmp_path: Path) -> Path:
    """A user's file that registers two datasets without a COCO file, and a mapper that inverts images."""
    path = tmp_path / "own_datasets.py"
    files = {part: tiny_dataset[f"{part}_annotations"].read_text() for part in ("train", "val")}
    images = {part: str(tiny_dataset[f"{part}_images"]) for part in ("train", "val")}
    path.write_text(REGISTERING.format(folder=str(tmp_path), files=files, images=images))
    return path


def test_datasets_and_mappers_of_a_users_module_are_used(config: Config, own_module: Path) -> None:
    own: dict[str, Any] = {
        "DATASETS.IMPORT": [str(own_module)],
        "DATASETS.TRAIN": ["own_train"],
        "DATASETS.TEST": ["own_val"],
        "DATASETS.SUBCATEGORIES": ["color"],
    }
    there, here = build_engine(config.with_values(own)), build_engine(config)
    assert there.categories.names == here.categories.names
    assert there.most_instances == here.most_instances
    (theirs, *_), (ours, *_) = (next(e.train_batches(rank=0, world_size=1, start_iteration=0)) for e in (there, here))
    assert torch.equal(255 - theirs.image, ours.image)
    assert torch.equal(theirs.target.masks, ours.target.masks)
    assert list(theirs.target.sublabels) == ["color"]
    assert torch.equal(theirs.target.sublabels["color"], ours.target.sublabels["color"])


def test_a_dataset_that_is_nowhere_is_named(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"data set 'elsewhere' is neither in .* DATASETS\.IMPORT"):
        build_engine(config.with_values({"DATASETS.TRAIN": ["elsewhere"]}))
    with pytest.raises(DatasetError, match="coco_2017_val"):  # detectron2 knows it, but its files are not here
        build_engine(config.with_values({"DATASETS.TRAIN": ["coco_2017_val"]}))


@pytest.mark.parametrize("entry", [{"image_id": 1}, {"image_id": 1, "annotations": [{"bbox": [0, 0, 1, 1]}]}])
def test_entries_that_lack_something_are_one_error(config: Config, entry: dict[str, Any]) -> None:
    from detectron2.data import DatasetCatalog

    DatasetCatalog.register("lacking", lambda: [entry])
    try:
        with pytest.raises(DatasetError, match=r"'lacking' .*KeyError.* Each image needs annotations"):
            build_engine(config.with_values({"DATASETS.TRAIN": ["lacking"]}))
    finally:
        DatasetCatalog.remove("lacking")


def test_coco_files_that_detectron2_registers_are_used(config: Config, tiny_dataset: dict[str, Path]) -> None:
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    for part in ("train", "val"):
        if f"theirs_{part}" not in DatasetCatalog:
            files = str(tiny_dataset[f"{part}_annotations"]), str(tiny_dataset[f"{part}_images"])
            register_coco_instances(f"theirs_{part}", {}, *files)
    heads: dict[str, Any] = {"DATASETS.SUBCATEGORIES": []}
    ours = build_engine(config.with_values(heads))
    theirs = build_engine(
        config.with_values({**heads, "DATASETS.TRAIN": ["theirs_train"], "DATASETS.TEST": ["theirs_val"]})
    )
    assert theirs.categories == ours.categories
    assert theirs.datasets.test.records == ours.datasets.test.records  # type: ignore[attr-defined]
    batches = (next(e.train_batches(rank=0, world_size=1, start_iteration=0)) for e in (ours, theirs))
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.target.masks, b.target.masks)
