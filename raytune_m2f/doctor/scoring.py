"""The evaluator: ground truth fed back as predictions must score 100."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from raytune_m2f.data import Annotation, CocoDataset, ImageRecord, TestSample
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.engines.datasets import DatasetEngine
from raytune_m2f.evaluation.evaluator import Result, ToResults, instance_results
from raytune_m2f.model import UNKNOWN, PackedInstances

INSTANCES = 2000
"""Instances that are scored at most; a second or two."""
FULL = 99.95
"""From this score on it is 100, but for what an evaluator rounds."""


def _truth(subject: Subject) -> Iterator[Finding]:
    engine = subject.engine
    if any(subject.summary.problems()):
        yield TRUTH.skipped("the data are of no use as they are: see the problems of data")
        return
    if not isinstance(engine, DatasetEngine):
        yield TRUTH.skipped("the engine has no annotations to give back")
        return
    dataset = _sample(engine.datasets.test)
    kept = engine.config.TEST.DETECTIONS_PER_IMAGE
    scores = _scores(engine, dataset, kept)
    short = {key: round(value, 2) for key, value in scores.items() if value < FULL}
    images = f"{len(dataset)} of {sum(bool(r.instances) for r in engine.datasets.test.records)} test images"
    told = ", ".join(f"{key} {value:.1f}" for key, value in scores.items())
    if not short:
        yield TRUTH.ok(f"the annotations of {images}, given back as predictions, score 100: {told}", **scores)
        return
    most = max(len(record.instances) for record in dataset.records)
    if most > kept and min(_scores(engine, dataset, most).values()) >= FULL:
        yield TRUTH.ok(
            f"the annotations of {images}, given back as predictions, score 100 but for what TEST.DETECTIONS_PER_IMAGE "
            f"cuts off (see data/instances): {told}",
            **scores,
        )
        return
    reasons = list(_reasons(dataset))
    said = ", ".join(f"{key} {value:.1f}" for key, value in short.items())
    figure = f"the annotations of {images}, given back as predictions, do not score 100: {said}"
    if reasons:
        meaning = f"No network can score more than that. Why: {'; '.join(reasons)}"
        yield TRUTH.warning(figure, meaning, "Correct these annotations of the test set.", **scores)
        return
    yield TRUTH.problem(
        figure,
        "No network can score more than that, and nothing in the annotations explains it: the scores cannot be trusted",
        "Compare TEST.EVALUATOR=hotcoco with pycocotools, and report this with the annotation file.",
        **scores,
    )


def _sample(dataset: CocoDataset) -> CocoDataset:
    """As many images with instances, at even distances, as have INSTANCES of them."""
    records = [record for record in dataset.records if record.instances]
    count = min(len(records), max(1, len(records) * INSTANCES // sum(len(r.instances) for r in records)))
    return replace(dataset, records=tuple(records[i * len(records) // count] for i in range(count)))


def _scores(engine: DatasetEngine, dataset: CocoDataset, most: int) -> dict[str, float]:
    """AP of the masks (or boxes), joint AP of each head and of all, and each head's accuracy, in percent.

    Args:
        most: instances of an image that are kept and counted.
    """
    ours = engine.to_results is instance_results
    to_results: ToResults = instance_results if ours else _as_results
    evaluator = engine.evaluator_of(dataset, bootstrap=0, max_detections=most, to_results=to_results)
    for record in dataset.records:
        instances = record.instances[:most]
        if ours:
            sample = TestSample(torch.empty(3, 0, 0), record.id, record.height, record.width, record.file)
            evaluator.process([sample], [_perfect(instances, record, dataset)])
        else:
            evaluator.process([record.id], [_results(instances, record, dataset)])
    metrics = evaluator.evaluate()
    heads = dataset.categories.subcategories
    wanted = [f"{engine.tasks[0]}/AP", *(f"{engine.tasks[0]}/AP_joint_{head}" for head in heads)]
    wanted += [f"{engine.tasks[0]}/AP_all", *(f"{head}/accuracy" for head in heads)]
    return {key: metrics[key] for key in wanted if math.isfinite(metrics.get(key, math.nan))}


def _perfect(instances: Sequence[Annotation], record: ImageRecord, dataset: CocoDataset) -> PackedInstances[object]:
    """The annotations of an image as a network without fault predicts them; of an unknown label it says nothing."""
    count = len(instances)
    subprobs = {}
    for head, classes in dataset.categories.subcategories.items():
        labels = torch.tensor([a.sublabels[head] for a in instances], dtype=torch.int64)
        probabilities = torch.full((count, len(classes)), 1 / len(classes))
        known = labels != UNKNOWN
        probabilities[known] = torch.eye(len(classes))[labels[known]]
        subprobs[head] = probabilities
    return PackedInstances(
        scores=torch.ones(count),
        labels=torch.tensor([a.label for a in instances], dtype=torch.int64),
        masks=[a.rle(record.height, record.width) for a in instances],
        queries=torch.arange(count),
        subprobs=subprobs,
    )


def _results(instances: Sequence[Annotation], record: ImageRecord, dataset: CocoDataset) -> list[Result]:
    """The same as COCO results, for networks without heads; of boxes those of the file."""
    return [
        {
            "image_id": record.id,
            "category_id": dataset.categories.ids[a.label],
            "segmentation": a.rle(record.height, record.width),
            "bbox": list(a.bbox),
            "score": 1.0,
        }
        for a in instances
    ]


def _as_results(_: CocoDataset, image_id: int, results: list[Result]) -> tuple[int, list[Result]]:
    return image_id, results


def _reasons(dataset: CocoDataset) -> Iterator[str]:
    """What in the annotations keeps a perfect prediction from 100."""
    for record in dataset.records:
        empty = [a.id for a in record.instances if not a.mask(record.height, record.width).any()]
        if empty:
            yield f"annotation {empty[0]} has no pixel in its image"
            break
    crowded = _within_crowds(dataset)
    if crowded:
        yield f"annotation {crowded[0]} lies within a crowd"


def _within_crowds(dataset: CocoDataset) -> list[int]:
    found = []
    for record in dataset.records:
        crowds = [a for a in record.annotations if a.iscrowd]
        for annotation in record.instances if crowds else ():
            own = annotation.mask(record.height, record.width)
            inside = any((own & c.mask(record.height, record.width)).sum() > own.sum() / 2 for c in crowds)
            found += [annotation.id] if inside else []
    return found


TRUTH = Check("evaluator/truth", "do perfect predictions score 100?", _truth, quick=True)

CHECKS: tuple[Check, ...] = (TRUTH,)
