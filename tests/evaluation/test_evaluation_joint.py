"""Joint AP against plain loops, against pycocotools on virtual categories, and on cases worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_cases import CATEGORIES, annotation, dataset, predictions, square
from pycocotools import mask as mask_utils

from raytune_m2f.data import Annotation, Categories, CocoDataset
from raytune_m2f.evaluation import evaluate_results, instances_to_results
from raytune_m2f.evaluation.coco import GroundTruth, standard_metrics
from raytune_m2f.model import UNKNOWN, Instances

Results = list[dict[str, Any]]
HEADS = {"colour": ("red", "green", "blue"), "state": ("fresh", "rotten")}


def metrics(data: CocoDataset, *images: Instances, max_detections: int = 100) -> dict[str, float]:
    """Of one prediction for each of the first images."""
    results = [
        result
        for record, instances in zip(data.records, images, strict=False)
        for result in instances_to_results(instances, image_id=record.id, categories=data.categories)
    ]
    return evaluate_results(data, results, max_detections=max_detections).metrics


def found(cells: Sequence[int], colours: Sequence[Sequence[float]], scores: Sequence[float] | None = None) -> Instances:
    """One instance on each square, with the probabilities of its colours."""
    instances = predictions(cells, scores=scores)
    return Instances(
        instances.scores, instances.labels, instances.masks, instances.queries, {"colour": torch.tensor(colours)}
    )


RED, GREEN, BLUE = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]

# By hand


def test_everything_right_is_100() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=2)])
    scores = metrics(data, found([0, 1], [RED, BLUE]))
    for name in ("AP_joint_colour", "AP_upper_colour", "AP_all", "AP_all_upper"):
        assert scores[f"segm/{name}"] == pytest.approx(100.0)
    # by the score alone the red one is the first of both colours' two candidates: 100 for red, 50 for blue
    assert scores["segm/AP_lower_colour"] == scores["segm/AP_all_lower"] == pytest.approx(75.0)


def test_swapped_subcategories_are_0_though_all_masks_are_right() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=1)])
    scores = metrics(data, found([0, 1], [GREEN, RED]))
    assert scores["segm/AP"] == pytest.approx(100.0)
    assert scores["segm/AP_joint_colour"] == scores["segm/AP_all"] == 0.0
    assert scores["segm/AP_upper_colour"] == pytest.approx(100.0)
    assert scores["segm/AP_lower_colour"] == pytest.approx(75.0)  # such a head is worse than none


def test_a_probability_between_ranks_right_behind_wrong() -> None:
    """Red: the wrong candidate (0.9 x 0.6) is before the right one (0.8 x 0.4): precision 1/2 throughout."""
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=1)])
    scores = metrics(data, found([0, 1], [[0.4, 0.6, 0.0], [0.6, 0.4, 0.0]], scores=[0.8, 0.9]))
    assert scores["segm/AP_joint_colour"] == pytest.approx(50.0)


def test_no_object_is_left_out_before_the_probabilities_count() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=0)])
    # with "no object" at 0.9 and at 0: without it both are surely red, and the other square comes between by score
    sure = metrics(data, found([0, 5, 1], [[0.1, 0, 0], [0.9, 0.1, 0], [1.0, 0, 0]], scores=[0.9, 0.8, 0.5]))
    # by hand: red at 0.9, the wrong one at 0.72, red at 0.5: precision 1 up to a recall of 1/2, then 2/3
    assert sure["segm/AP_joint_colour"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_head_that_gives_no_class_any_probability_says_nothing() -> None:
    data = dataset([annotation(1, 0, colour=0)])
    assert metrics(data, found([0], [[0.0, 0.0, 0.0]]))["segm/AP_joint_colour"] == pytest.approx(100.0)


def test_duplicates_are_punished() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=0)])
    once = metrics(data, found([0, 1], [RED, RED], scores=[0.9, 0.5]))
    twice = metrics(data, found([0, 0, 1], [RED, RED, RED], scores=[0.9, 0.8, 0.5]))
    assert once["segm/AP_joint_colour"] == pytest.approx(100.0)
    assert twice["segm/AP_joint_colour"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert twice["segm/AP_upper_colour"] == pytest.approx(100.0)  # labels cannot mend it, a ranking can


def test_unknown_labels_are_neither_right_nor_wrong_and_take_one_detection() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=UNKNOWN)])
    assert metrics(data, found([1, 0], [RED, RED]))["segm/AP_joint_colour"] == pytest.approx(100.0)
    again = metrics(data, found([1, 1, 0], [RED, RED, RED]))  # the second one finds nothing
    assert again["segm/AP_joint_colour"] == pytest.approx(50.0)


def test_crowds_are_ignored_in_every_pair_whatever_their_label() -> None:
    data = dataset([annotation(1, 0, colour=0), annotation(2, 1, colour=2, crowd=True)])
    assert metrics(data, found([1, 1, 0], [RED, RED, RED]))["segm/AP_joint_colour"] == pytest.approx(100.0)


def test_the_mean_is_over_the_pairs_that_occur() -> None:
    data = dataset([annotation(1, 0, 0, 0), annotation(2, 1, 0, 1), annotation(3, 2, 1, 0)])
    scores = metrics(data, found([0], [RED]))
    assert scores["segm/AP_joint_colour"] == pytest.approx(100 / 3)  # of (nut, red), (nut, green) and (fig, red)


def test_without_labels_there_is_no_number_and_without_heads_no_metric() -> None:
    nothing = metrics(dataset([annotation(1, 0, colour=UNKNOWN)]), found([0], [RED]))
    assert math.isnan(nothing["segm/AP_joint_colour"])
    assert math.isnan(nothing["segm/AP_all"])
    plain = dataset([annotation(1, 0)], categories=Categories(CATEGORIES.ids, CATEGORIES.names))
    assert not any("joint" in name or "AP_all" in name for name in metrics(plain, found([0], [RED])))


def test_nothing_found_is_0() -> None:
    scores = metrics(dataset([annotation(1, 0, colour=0)]))
    for name in ("AP_joint_colour", "AP_lower_colour", "AP_upper_colour", "AP_all"):
        assert scores[f"segm/{name}"] == 0.0


def test_partly_known_annotations_are_ignored_only_where_they_may_be_of_the_tuple() -> None:
    """The second one is red and of unknown state: for (red, fresh) it is ignored, for (green, fresh) it is wrong."""
    data = two_heads([annotation(1, 0), annotation(2, 1), annotation(3, 2)], [(0, 0), (0, UNKNOWN), (1, 0)])
    fresh = [1.0, 0.0]
    results = results_of(data, [([1, 0, 2], [RED, RED, GREEN], [fresh] * 3, [0.9, 0.8, 0.7])])
    assert evaluate_results(data, results).metrics["segm/AP_all"] == pytest.approx(100.0)
    results = results_of(data, [([1, 0, 2], [GREEN, RED, GREEN], [fresh] * 3, [0.9, 0.8, 0.7])])
    # (red, fresh) is right; of (green, fresh) the first candidate is the red one
    assert evaluate_results(data, results).metrics["segm/AP_all"] == pytest.approx((100 + 50) / 2)


# Against plain loops and pycocotools


def two_heads(annotations: Sequence[Annotation], labels: Sequence[tuple[int, int]]) -> CocoDataset:
    data = dataset(annotations, categories=Categories(CATEGORIES.ids, CATEGORIES.names, HEADS))
    given = iter(labels)
    return data.map_annotations(
        lambda a: Annotation(
            a.id, a.label, a.segmentation, a.bbox, a.area, a.iscrowd, dict(zip(HEADS, next(given), strict=True))
        ),
        data.categories,
    )


def results_of(data: CocoDataset, images: Sequence[Any]) -> Results:
    """Squares of category 0, with probabilities of both heads."""
    results: Results = []
    for record, (cells, colours, states, scores) in zip(data.records, images, strict=True):
        instances = predictions(cells, scores=scores)
        both = {"colour": torch.tensor(colours), "state": torch.tensor(states)}
        instances = Instances(instances.scores, instances.labels, instances.masks, instances.queries, both)
        results += instances_to_results(instances, image_id=record.id, categories=data.categories)
    return results


def shifted(cell: int, dy: int, dx: int) -> Any:
    mask = torch.roll(square(cell), (dy, dx), (0, 1))
    return mask_utils.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def random_case(seed: int) -> tuple[CocoDataset, Results]:
    """Three images of few places, so that much overlaps; crowds, unknown labels, equal scores, probabilities of 0."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for i in range(3):
        image = []
        for j in range(rng.integers(6)):
            one = annotation(10 * i + j + 1, int(rng.integers(4)), int(rng.integers(2)), crowd=rng.random() < 0.1)
            rle = shifted(int(rng.integers(4)), 0, int(rng.integers(2)))
            rle = {"size": rle["size"], "counts": rle["counts"].decode()}
            image.append(Annotation(one.id, one.label, rle, one.bbox, one.area, one.iscrowd, {}))
            labels.append((int(rng.integers(-1, 3)), int(rng.integers(-1, 2))))
        images.append(image)
    data = dataset(*images, categories=Categories(CATEGORIES.ids, CATEGORIES.names, HEADS))
    given = iter(labels)
    data = data.map_annotations(
        lambda a: Annotation(
            a.id, a.label, a.segmentation, a.bbox, a.area, a.iscrowd, dict(zip(HEADS, next(given), strict=True))
        ),
        data.categories,
    )
    results: Results = []
    for record in data.records:
        for _ in range(rng.integers(9)):
            rle = shifted(int(rng.integers(4)), int(rng.integers(2)), int(rng.integers(2)))
            colour, state = rng.dirichlet([0.5] * 3), rng.dirichlet([0.5] * 2)
            if rng.random() < 0.2:
                colour = np.eye(3)[rng.integers(3)]
            results.append(
                {
                    "image_id": record.id,
                    "category_id": int(rng.choice(CATEGORIES.ids)),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "score": float(rng.choice([0.3, 0.5, 0.7, 0.9, rng.random()])),
                    "colour": int(colour.argmax()),
                    "state": int(state.argmax()),
                    "colour_probabilities": (0.9 * colour).tolist(),
                    "state_probabilities": (0.8 * state).tolist(),
                }
            )
    return data, results


def probability(result: dict[str, Any], head: str, label: int) -> float:
    row = np.array(result[f"{head}_probabilities"])
    return float(row[label] / row.sum())


def plain_joint_ap(data: CocoDataset, results: Results, heads: Sequence[str]) -> dict[str, float]:
    """The definition in loops: for each class, image by image, detection by detection, annotation by annotation."""
    known = [
        (a.label, *(a.sublabels[h] for h in heads))
        for record in data.records
        for a in record.instances
        if all(a.sublabels[h] != UNKNOWN for h in heads)
    ]
    classes = sorted(set(known))
    totals: dict[str, list[float]] = {"joint": [], "lower": [], "upper": []}
    for threshold, (label, *labels) in itertools.product(np.linspace(0.5, 0.95, 10), classes):
        truths = known.count((label, *labels))
        ranked: dict[str, list[tuple[float, bool]]] = {"joint": [], "lower": []}
        reached = 0
        for record in data.records:
            own, others = [], []
            for a in record.annotations:
                if a.label == label:
                    given = [a.sublabels[h] for h in heads]
                    if a.iscrowd or (
                        UNKNOWN in given and all(g in (UNKNOWN, s) for g, s in zip(given, labels, strict=True))
                    ):
                        others.append(a)
                    elif given == labels:
                        own.append(a)
            candidates = [
                r for r in results if r["image_id"] == record.id and r["category_id"] == data.categories.ids[label]
            ]
            rles = [a.rle(record.height, record.width) for a in (*own, *others)]
            crowds = [int(a.iscrowd) for a in (*own, *others)]
            for kind, entries in ranked.items():
                scored = []
                for r in candidates:
                    p = float(np.prod([probability(r, h, s) for h, s in zip(heads, labels, strict=True)]))
                    if kind == "lower":
                        scored.append((r["score"], r))
                    elif p > 0:
                        scored.append((r["score"] * p, r))
                scored.sort(key=lambda pair: -pair[0])
                taken: set[int] = set()
                for score, r in scored:
                    ious = mask_utils.iou([r["segmentation"]], rles, crowds)[0] if rles else []
                    best, at = min(threshold, 1 - 1e-10), -1
                    for g, iou in enumerate(ious):
                        if g in taken and not crowds[g]:
                            continue
                        if -1 < at < len(own) <= g:
                            break
                        if iou >= best:
                            best, at = iou, g
                    if at == -1:
                        entries.append((score, False))
                    else:
                        taken.add(at)
                        if at < len(own):
                            entries.append((score, True))
            reached += most_pairs(
                [
                    [
                        float(mask_utils.iou([r["segmentation"]], [rle], [0])[0, 0]) >= threshold
                        for rle in rles[: len(own)]
                    ]
                    for r in candidates
                ]
            )
        for kind, entries in ranked.items():
            totals[kind].append(area([right for _, right in sorted(entries, key=lambda e: -e[0])], truths))
        totals["upper"].append(area([True] * reached, truths))
    return {kind: 100 * float(np.mean(values)) if values else math.nan for kind, values in totals.items()}


def most_pairs(possible: list[list[bool]]) -> int:
    """How many rows can get a column each, by trying."""
    if not possible:
        return 0
    first, *rest = possible
    without = most_pairs(rest)
    for column, yes in enumerate(first):
        if yes:
            others = [[y and c != column for c, y in enumerate(row)] for row in rest]
            without = max(without, 1 + most_pairs(others))
    return without


def area(right: Sequence[bool], truths: int) -> float:
    """AP: at each of 101 recalls the highest precision from there on."""
    points = [(sum(right[: i + 1]) / truths, sum(right[: i + 1]) / (i + 1)) for i in range(len(right)) if right[i]]
    return float(np.mean([max((p for r, p in points if r >= at), default=0.0) for at in np.linspace(0, 1, 101)]))


@pytest.mark.parametrize("seed", range(40))
def test_random_cases_equal_the_definition_in_loops(seed: int) -> None:
    data, results = random_case(seed)
    scores = evaluate_results(data, results).metrics
    for heads, name in (([h], f"AP_{{}}_{h}") for h in HEADS):
        for kind, value in plain_joint_ap(data, results, heads).items():
            assert scores[f"segm/{name.format(kind)}"] == pytest.approx(value, abs=1e-9, nan_ok=True), (heads, kind)
    for kind, value in plain_joint_ap(data, results, list(HEADS)).items():
        key = "segm/AP_all" if kind == "joint" else f"segm/AP_all_{kind}"
        assert scores[key] == pytest.approx(value, abs=1e-9, nan_ok=True), kind
    for head in HEADS:
        for kind in ("joint", "lower"):
            assert not scores[f"segm/AP_{kind}_{head}"] > scores[f"segm/AP_upper_{head}"] + 1e-9


@pytest.mark.parametrize("seed", range(40, 60))
def test_random_cases_equal_pycocotools_on_virtual_categories(seed: int) -> None:
    """A pair is a category to pycocotools; an annotation that is ignored without being a crowd has an area beyond its
    largest size."""
    data, results = random_case(seed)
    labels = range(len(HEADS["colour"]))
    pairs = {pair: k for k, pair in enumerate(itertools.product(range(2), labels), start=1)}
    annotations: list[dict[str, Any]] = []
    for record in data.records:
        for a in record.annotations:
            colour = a.sublabels["colour"]
            sure = colour != UNKNOWN and not a.iscrowd
            for own in [colour] if sure else labels:
                entry = {
                    "id": len(annotations) + 1,
                    "image_id": record.id,
                    "category_id": pairs[a.label, own],
                    "segmentation": a.rle(record.height, record.width),
                    "area": a.area if sure or a.iscrowd else 1e11,
                    "bbox": list(a.bbox),
                    "iscrowd": int(a.iscrowd),
                }
                annotations.append(entry)
    truth = GroundTruth.of_file(
        {
            "images": [{"id": r.id, "height": r.height, "width": r.width} for r in data.records],
            "categories": [{"id": k, "name": str(pair)} for pair, k in pairs.items()],
            "annotations": annotations,
        }
    )
    virtual = [
        {
            "image_id": r["image_id"],
            "category_id": pairs[data.categories.ids.index(r["category_id"]), label],
            "segmentation": r["segmentation"],
            "score": r["score"] * p,
        }
        for r in results
        for label in labels
        if (p := probability(r, "colour", label)) > 0
    ]
    expected = standard_metrics(truth, virtual, max_detections=100, evaluator="pycocotools")
    ours = evaluate_results(data, results).metrics["segm/AP_joint_colour"]
    assert ours == pytest.approx(expected["segm/AP"], abs=1e-9, nan_ok=True)


# Against PACO's own rule


def paco_ap(data: CocoDataset, results: Results, head: str, *, lower: bool) -> float:
    """As facebookresearch/paco has it (paco_eval_api/eval.py, evaluate_img_attr), in loops: what finds no annotation of
    the pair is looked up among the matches of its category, and ignored if it found one of unknown label there."""
    pairs = sorted(
        {(a.label, a.sublabels[head]) for r in data.records for a in r.annotations if a.sublabels[head] >= 0}
    )
    values = []
    for threshold, (label, own) in itertools.product(np.linspace(0.5, 0.95, 10), pairs):
        entries: list[tuple[float, bool]] = []
        truths = 0
        for record in data.records:
            annotations = [a for a in record.annotations if a.label == label]
            category = data.categories.ids[label]
            found = [r for r in results if (r["image_id"], r["category_id"]) == (record.id, category)]
            rles = [a.rle(record.height, record.width) for a in annotations]
            ious = mask_utils.iou([r["segmentation"] for r in found], rles, [0] * len(rles)) if rles and found else []
            mine = [g for g, a in enumerate(annotations) if a.sublabels[head] == own]
            scores = [r["score"] * (1.0 if lower else probability(r, head, own)) for r in found]
            of_pair = greedy(ious, scores, mine, threshold)
            of_category = greedy(ious, [r["score"] for r in found], list(range(len(annotations))), threshold)
            truths += len(mine)
            for d, score in enumerate(scores):
                if d in of_pair:
                    entries.append((score, True))
                elif d not in of_category or annotations[of_category[d]].sublabels[head] != UNKNOWN:
                    entries.append((score, False))
        values.append(area([right for _, right in sorted(entries, key=lambda e: -e[0])], truths))
    return 100 * float(np.mean(values)) if values else math.nan


def greedy(ious: Any, scores: Sequence[float], annotations: Sequence[int], threshold: float) -> dict[int, int]:
    """Detection to annotation."""
    taken: dict[int, int] = {}
    for d in sorted(range(len(scores)), key=lambda d: -scores[d]):
        free = [g for g in annotations if g not in taken.values() and len(ious) and ious[d][g] >= threshold]
        if free:
            taken[d] = max(free, key=lambda g: ious[d][g])
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_random_cases_equal_paco_s_rule(seed: int) -> None:
    """Squares apart from each other, each unknown one found once at most: there both rules are the same."""
    rng = np.random.default_rng(seed)
    images, results, labels = [], [], []
    for i in range(3):
        cells = rng.permutation(8)[: rng.integers(1, 7)].tolist()
        images.append([annotation(10 * i + j, cell, int(rng.integers(2))) for j, cell in enumerate(cells)])
        labels += rng.integers(-1, 3, len(cells)).tolist()
    given = iter(labels)
    data = dataset(*images).map_annotations(
        lambda a: Annotation(a.id, a.label, a.segmentation, a.bbox, a.area, False, {"colour": next(given)}),
        CATEGORIES,
    )
    for record in data.records:
        places = [(a, shift) for a in record.annotations for shift in range(1 if a.sublabels["colour"] < 0 else 3)]
        for a, shift in [places[i] for i in rng.permutation(len(places))[: len(places) * 2 // 3]]:
            rle = moved(a, shift)
            colours = rng.dirichlet([0.5] * 3)
            label = a.label if rng.random() < 0.9 else 1 - a.label
            results.append(
                {
                    "image_id": record.id,
                    "category_id": CATEGORIES.ids[label],
                    "segmentation": rle,
                    "score": float(rng.random()),
                    "colour": int(colours.argmax()),
                    "colour_probabilities": colours.tolist(),
                }
            )
    scores = evaluate_results(data, results).metrics
    for name, lower in (("joint", False), ("lower", True)):
        expected = paco_ap(data, results, "colour", lower=lower)
        assert scores[f"segm/AP_{name}_colour"] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def moved(one: Annotation, shift: int) -> dict[str, Any]:
    """The square of an annotation, `shift` columns of its four further on: an IoU of 1, 0.6 or 1/3."""
    mask = torch.roll(torch.from_numpy(one.mask(128, 128)), shift, 1)
    rle = mask_utils.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}
