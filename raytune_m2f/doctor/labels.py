"""Data, as the annotation files say it: labels, categories, masks, instances per image, splits.

What `train` and `tune` say of the data too (`notes.py`) is found while they are read; the checks here add what takes
a second look.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.data import Annotation, CocoDataset, ImageRecord, shortest_edge_size
from raytune_m2f.data.agreement import ROUNDED, mask_bounds
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import MissingDependencyError, first_of
from raytune_m2f.evaluation.coco import require_evaluator
from raytune_m2f.model import MAIN
from raytune_m2f.training.check import QUERIES, notes_on

FEW = 3
"""Fewer training instances than this are hardly any."""
UNKNOWN_SHARE = 0.5
"""From this share of unknown labels on, a head has little to learn from."""
MASKS = 5000
"""Masks of a file that are rasterised at most."""
TINY = 4
"""Pixels of the network: the side of a cell of its mask features (MODEL.SEM_SEG_HEAD.COMMON_STRIDE)."""
TINY_SHARE = 0.05
OUTSIDE = 0.05
"""Share of a mask's own extent that may lie outside the image: outlines are drawn a little over its border."""
CROSSED = 0.1
"""How far the area within an outline may be from its raster's, of the larger, before they contradict each other."""
COMPARED = 50_000
"""Annotations of a file that are compared with each other at most; a second or two."""
SAME = 0.95
"""IoU of masks that are the same object drawn twice."""
SHOWN = 3
FEWEST_IMAGES = 5
"""Of a set whose shares of classes are compared."""
APART = 0.15
"""Half the sum of the differences of shares, from which on two sets are not of one kind."""
TOLD = 0.01
"""Differences of shares that are worth a word."""
PERMUTATIONS, RARE = 1000, 0.002
"""Of the images, and how many of them may be so far apart."""

Look = Callable[[Subject], Iterator[Finding]]


def noted(check: Check, subject: Subject, remedy: str = "Correct the annotation file.") -> list[Finding]:
    """What reading the data found of this check: problems, or else what is worth a look."""
    summary = subject.summary
    if problems := [note for group in summary.problems() for note in group if note.topic == check.name]:
        return [check.problem(note.figure, note.meaning, note.remedy or remedy) for note in problems]
    notes = [note for note in summary.notes() if note.topic == check.name]
    config, space = subject.config, subject.space
    fewest = space.span(QUERIES, config)[0] if space is not None and QUERIES in space.entries else None
    notes += [note for note in notes_on(config, subject.engine, fewest) if note.topic == check.name]
    return [check.warning(note.figure, note.meaning, note.remedy or remedy) for note in notes]


def _or_ok(check: Check, found: Sequence[Finding], figure: str, **values: object) -> Iterator[Finding]:
    yield from found or [check.ok(figure, **values)]


# Labels and categories


def _labels(subject: Subject) -> Iterator[Finding]:
    found = noted(LABELS, subject)
    summary, heads = subject.summary, subject.engine.categories.subcategories
    if not heads:
        yield from _or_ok(LABELS, found, "no subcategory heads (DATASETS.SUBCATEGORIES is empty)")
        return
    counts = summary.class_counts.subcategories
    told, values = [], {}
    for head, classes in heads.items():
        known = sum(counts[head])
        unknown = sum(part.labels[head][1] for part in summary.train)
        test_known, test_unknown = summary.test.labels[head]
        values[head] = {
            "train": {"known": known, "unknown": unknown, **dict(zip(classes, counts[head], strict=True))},
            "test": {"known": test_known, "unknown": test_unknown, **summary.test.per_class[head]},
        }
        share = f", {max(counts[head]) / known:.0%} of them {classes[int(np.argmax(counts[head]))]}" if known else ""
        rest = f", {unknown + test_unknown} unknown" if unknown + test_unknown else ""
        told.append(f"{head} {known} to train on{share}, {test_known} to test on{rest}")
        found += _alike(LABELS, f"{head}: classes", classes)
        if known:
            found += _weak_head(head, classes, counts[head], unknown)
    yield from found or [LABELS.ok(f"labels in range: {'; '.join(told)}", **values)]


def _weak_head(head: str, classes: Sequence[str], counts: Sequence[int], unknown: int) -> Iterator[Finding]:
    known = sum(counts)
    if unknown >= UNKNOWN_SHARE * (known + unknown):
        yield LABELS.warning(
            f"{head}: {unknown} of {known + unknown} training instances have no label",
            "These teach the head nothing, and joint metrics leave them out",
            f'Fill in the field "{head}" where the class can be seen.',
        )
    if sum(map(bool, counts)) == 1 < len(classes):
        (only,) = (name for name, count in zip(classes, counts, strict=True) if count)
        yield LABELS.warning(
            f"{head}: all {known} training labels are {only!r}",
            "The head can only learn to say that, and its accuracy says nothing",
            f"Label the other classes ({_some([n for n in classes if n != only])}), or take the head out of "
            "DATASETS.SUBCATEGORIES.",
        )
        return
    yield from _rare(LABELS, f"{head}: class", classes, counts)


def _rare(check: Check, what: str, names: Sequence[str], counts: Sequence[int], **values: object) -> Iterator[Finding]:
    """Classes without a training instance, and with hardly any; `what` they are: "ripeness: class"."""
    never = [name for name, count in zip(names, counts, strict=True) if not count]
    hardly = [f"{name} {count}" for name, count in zip(names, counts, strict=True) if 0 < count < FEW]
    if never or hardly:
        seen = [f"without a training instance {_some(never)}"] if never else []
        seen += [f"with hardly any {_some(hardly)}"] if hardly else []
        yield check.warning(
            f"{what}{'es' if what.endswith('class') else ''} {'; '.join(seen)} ({len(never) + len(hardly)} of "
            f"{len(names)})",
            "What was not seen in training is not found",
            "Annotate more of them, move images from the test set, or take them out of the list of classes.",
            **values,
        )


def _alike(check: Check, what: str, names: Sequence[str]) -> Iterator[Finding]:
    """Names that are the same but for case, blanks, - and _."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(re.findall(r"[^\s_-]", name.casefold()))].append(name)
    if alike := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        yield check.warning(
            f"{what} whose names hardly differ: {_some(alike)}",
            "If they are one class, the network is punished for not telling them apart",
            "Give them one name in the annotation files, or names that differ.",
        )


def _categories(subject: Subject) -> Iterator[Finding]:
    summary, names = subject.summary, subject.engine.categories.names
    counts = summary.class_counts.categories
    tested = [summary.test.per_category[name][0] for name in names]
    values = {"train": dict(zip(names, counts, strict=True)), "test": dict(zip(names, tested, strict=True))}
    if not summary.instances:
        yield CATEGORIES.skipped("no training instance at all: see data/instances")
        return
    only_tested = [f"{n} ({t})" for n, count, t in zip(names, counts, tested, strict=True) if t and not count]
    found = [*_alike(CATEGORIES, "categories", names)]
    if only_tested:
        found.append(
            CATEGORIES.warning(
                f"{len(only_tested)} of {len(names)} categories are in the test set only: {_some(only_tested)}",
                "Each has AP 0, which lowers segm/AP, their mean",
                "Split the images anew, so that every category is in both sets.",
                **values,
            )
        )
    rest = [(n, c) for n, c, t in zip(names, counts, tested, strict=True) if c or not t]
    crowds = {
        name for part in (*summary.train, summary.test) for name, (_, crowd) in part.per_category.items() if crowd
    }
    unused = [name for name, count in rest if not count and name not in crowds]  # crowds are told in data/crowds
    if unused:
        found.append(
            CATEGORIES.warning(
                f"{len(unused)} of {len(names)} categories have no instance at all: {_some(unused)}",
                "The network has a class for each, which learns nothing and is not scored",
                "Take them out of 'categories' in the annotation files, if they are not to come.",
                **values,
            )
        )
    hardly = [f"{name} {count}" for name, count in rest if 0 < count < FEW]
    if hardly:
        found.append(
            CATEGORIES.warning(
                f"{len(hardly)} of {len(names)} categories have hardly a training instance: {_some(hardly)}",
                "They are hardly found, and count in segm/AP as much as the others",
                "Annotate more of them, or merge them with another category.",
                **values,
            )
        )
    low, high = min(counts), max(counts)
    per = f"{low} to {high} training instances each" if len(names) > 1 else f"{high} training instances"
    yield from _or_ok(CATEGORIES, found, f"{len(names)} categories, {per}", **values)


def _crowds(subject: Subject) -> Iterator[Finding]:
    parts = (*subject.summary.train, subject.summary.test)
    crowds, total = sum(part.crowds for part in parts), sum(part.crowds + part.instances for part in parts)
    yield from _or_ok(CROWDS, noted(CROWDS, subject), f"{crowds} of {total} annotations are crowds", crowds=crowds)


def _fields(subject: Subject) -> Iterator[Finding]:
    heads = ", ".join(subject.engine.categories.subcategories) or "none"
    yield from _or_ok(FIELDS, noted(FIELDS, subject), f"no field of the annotations is left unused; heads: {heads}")


def _instances(subject: Subject) -> Iterator[Finding]:
    config, values, told = subject.config, {}, []
    for role, dataset in subject.parts:
        counts = [len(record.instances) for record in dataset.records]
        middle, most_images, most = (math.ceil(np.percentile(counts, percent)) for percent in (50, 90, 100))
        values[role] = {"p50": middle, "p90": most_images, "max": most}
        told.append(f"{role} {middle} (half of the images), {most_images} (90 %), {most} (all)")
    limits = {"TEST.DETECTIONS_PER_IMAGE": config.TEST.DETECTIONS_PER_IMAGE}
    if config.knows(QUERIES):
        limits[QUERIES] = config.value(QUERIES)
    figure = f"instances of an image at most: {'; '.join(told)}; " if told else ""
    figure += ", ".join(f"{key} {value}" for key, value in limits.items())
    found = noted(INSTANCES, subject, "Give files with instances.")
    yield from found or [INSTANCES.ok(figure, **values)]


# Masks


@dataclass(frozen=True)
class _Raster:
    """Some masks of a data set, rasterised as training does it.

    Attributes:
        annotations, records: (N,) that were looked at, each with its image.
        areas: (N,) in pixels of the image.
        bounds: (N, 4) left, top, right, bottom of what the file says.
        crossed: (N,) bool: the area within an outline contradicts what is filled.
    """

    annotations: list[Annotation]
    records: list[ImageRecord]
    areas: NDArray[np.float64]
    bounds: NDArray[np.float64]
    crossed: NDArray[np.bool_]


def _rasterised(dataset: CocoDataset) -> _Raster:
    """At most MASKS masks of a data set, at even distances."""
    pairs = [(a, record) for record in dataset.records for a in record.instances]
    count = min(len(pairs), MASKS)
    pairs = [pairs[number * len(pairs) // count] for number in range(count)]
    annotations, records = [a for a, _ in pairs], [record for _, record in pairs]
    bounds = np.concatenate([np.zeros((0, 4)), *mask_bounds(annotations, MASKS)])
    areas, crossed = np.zeros(count), np.zeros(count, np.bool_)
    for number, (annotation, record) in enumerate(pairs):
        areas[number], crossed[number] = _area_of(annotation, record.height, record.width)
    return _Raster(annotations, records, areas, bounds, crossed)


def _area_of(annotation: Annotation, height: int, width: int) -> tuple[float, bool]:
    """Pixels of a mask, and whether one of its outlines crosses itself so that they are not what was drawn.

    COCO's rasteriser (pycocotools, common/maskApi.c, rleFrPoly) fills where a column has crossed the outline an odd
    number of times. Of an outline that does not cross itself that is its area (the shoelace formula) but for half its
    length; in a bow-tie the two halves cancel in the formula, and what an outline goes round twice is a hole.
    """
    if isinstance(annotation.segmentation, dict):
        return float(mask_utils.area(annotation.segmentation)), False
    parts = mask_utils.frPyObjects(list(annotation.segmentation), height, width)
    filled = [float(mask_utils.area(part)) for part in parts]
    crossed = any(
        _is_crossed(polygon, area, height, width) for polygon, area in zip(annotation.segmentation, filled, strict=True)
    )
    whole = filled[0] if len(parts) == 1 else float(mask_utils.area(mask_utils.merge(parts)))
    return whole, crossed


def _is_crossed(polygon: Sequence[float], filled: float, height: int, width: int) -> bool:
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    if (points < 0).any() or (points > (width, height)).any():
        return False  # what lies outside is not filled
    steps = np.roll(points, -1, axis=0) - points
    within = abs(float(np.sum(points[:, 0] * steps[:, 1] - points[:, 1] * steps[:, 0]))) / 2
    length = float(np.hypot(*steps.T).sum())
    return abs(within - filled) > CROSSED * max(within, filled) + length


def _masks(subject: Subject) -> Iterator[Finding]:
    found = noted(MASKS_CHECK, subject)
    wrong = any(finding.level == "problem" for finding in found)  # then the rest would only say it again
    looked, there = 0, 0
    for role, dataset in () if wrong else subject.parts:
        raster = _rasterised(dataset)
        looked += len(raster.annotations)
        there += sum(len(record.instances) for record in dataset.records)
        found += _mask_findings(subject, role, raster)
    yield from _or_ok(MASKS_CHECK, found, f"{looked} of {there} masks looked at: none is empty, outside or crossed")


def _mask_findings(subject: Subject, role: str, raster: _Raster) -> Iterator[Finding]:
    count = len(raster.annotations)
    sizes = np.array([(r.width, r.height) for r in raster.records], np.float64).reshape(-1, 2)

    def seen(which: NDArray[np.bool_], what: str) -> str:
        examples = [f"annotation {raster.annotations[i].id}" for i in np.flatnonzero(which)[:SHOWN]]
        return f"{role}: {int(which.sum())} of {count} masks {what}: {', '.join(examples)}"

    def values(which: NDArray[np.bool_]) -> dict[str, object]:
        return {
            "count": int(which.sum()),
            "of": count,
            "ids": [raster.annotations[i].id for i in np.flatnonzero(which)[:100]],
        }

    polygons = np.array([not isinstance(a.segmentation, dict) for a in raster.annotations], np.bool_)
    empty = (raster.areas == 0) & polygons  # of run lengths it is said already
    if empty.any():
        yield MASKS_CHECK.warning(
            seen(empty, "have no pixel in their image"),
            "No prediction can match them",
            "Correct these outlines, or take the annotations out of the file.",
            **values(empty),
        )
    extent = np.maximum(raster.bounds[:, 2:] - raster.bounds[:, :2], 1.0)
    beyond = np.maximum(-raster.bounds[:, :2], 0) + np.maximum(raster.bounds[:, 2:] - sizes, 0)
    outside = ((beyond > ROUNDED) & (beyond > OUTSIDE * extent)).any(1) & ~empty
    if outside.any():
        yield MASKS_CHECK.warning(
            seen(outside, "reach out of their image"),
            "What lies outside is cut off",
            "See whether these images were cropped or resized after they were annotated.",
            **values(outside),
        )
    if raster.crossed.any():
        yield MASKS_CHECK.warning(
            seen(raster.crossed, "have an outline that crosses itself, so that its area is not what is filled"),
            "Holes and halves of the object are missing in what is trained on",
            "Draw these objects anew, or put their points into the order of the outline.",
            **values(raster.crossed),
        )
    scales = np.array([_scale(subject, record) for record in raster.records])
    side = np.sqrt(raster.areas) * scales
    tiny = (side < TINY) & ~empty
    if tiny.sum() > TINY_SHARE * count:
        size = "INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST"
        yield MASKS_CHECK.warning(
            seen(tiny, f"are less than {TINY} x {TINY} pixels in the network, at the size of {size}"),
            f"So small is a cell of its mask features ({TINY} pixels): what is smaller is hardly found",
            f"Raise {size} (and INPUT.IMAGE_SIZE with them), or predict by windows (TEST.TILES).",
            **values(tiny),
            median_side=round(float(np.median(side)), 1),
        )


def _scale(subject: Subject, record: ImageRecord) -> float:
    """By what a test image is resized for the network; training images are taken to be so too."""
    config = subject.config
    if not (config.knows("INPUT.MIN_SIZE_TEST") and config.knows("INPUT.MAX_SIZE_TEST")):
        return 1.0
    smallest, largest = config.value("INPUT.MIN_SIZE_TEST"), config.value("INPUT.MAX_SIZE_TEST")
    height, width = shortest_edge_size(record.height, record.width, smallest, largest)
    return math.sqrt(height * width / (record.height * record.width))


# The same object twice


def _ids(subject: Subject) -> Iterator[Finding]:
    found = noted(IDS, subject)
    told = []
    for role, dataset in subject.parts:
        some = _compared(dataset)
        twice = _drawn_twice(some)
        told.append(f"{role} {sum(len(r.annotations) for r in some.records)} annotations of {len(some)} images")
        told[-1] += f" (of {len(dataset)})" if len(some) < len(dataset) else ""
        if twice:
            examples = [f"annotations {one} and {other}" for one, other in twice[:SHOWN]]
            what = "pair of annotations is" if len(twice) == 1 else "pairs of annotations are each"
            meanings = {
                "train": "The network learns to find it twice",
                "test": "Who finds it once has missed the other",
            }
            found.append(
                IDS.warning(
                    f"{role}: {len(twice)} {what} one object drawn twice (one category, mask IoU {SAME} or more): "
                    f"{', '.join(examples)}",
                    meanings[role],
                    "Take one of the two out of the file.",
                    pairs=twice[:100],
                )
            )
    yield from _or_ok(IDS, found, f"every id and every object is there once: {'; '.join(told)}")


def _compared(dataset: CocoDataset) -> CocoDataset:
    """As many images, at even distances, as have COMPARED annotations."""
    count = sum(len(record.annotations) for record in dataset.records)
    images = len(dataset) if count <= COMPARED else max(1, len(dataset) * COMPARED // count)
    return replace(dataset, records=tuple(dataset.records[i * len(dataset) // images] for i in range(images)))


def _drawn_twice(dataset: CocoDataset) -> list[tuple[int, int]]:
    """Pairs of annotation ids of one image and category whose masks are the same."""
    suspected = _suspects(dataset)
    pairs: list[tuple[int, int]] = []
    for record in dataset.records:
        groups: dict[int, list[Annotation]] = defaultdict(list)
        for annotation in record.instances:
            if suspected is None or annotation.id in suspected:
                groups[annotation.label].append(annotation)
        for group in groups.values():
            if len(group) > 1:
                rles = [a.rle(record.height, record.width) for a in group]
                ious = np.triu(mask_utils.iou(rles, rles, [0] * len(rles)), 1)
                pairs += [(group[i].id, group[j].id) for i, j in np.argwhere(ious >= SAME)]
    return pairs


def _suspects(dataset: CocoDataset) -> set[int] | None:
    """Ids of annotations that may be drawn twice; None: any may be, as there is no hotcoco here.

    hotcoco's healthcheck names those whose boxes are nearly the same, and images with more than 100 of a category,
    whose boxes it does not compare. What else it looks for is refused while a file is read (ids given twice, unknown
    images and categories), found by masks (areas, boxes), or by training and test set together (rare categories).
    """
    try:
        require_evaluator("hotcoco")
    except MissingDependencyError:
        return None
    import hotcoco

    categories = dataset.categories
    own = [(a, number) for number, record in enumerate(dataset.records, 1) for a in record.instances]
    report = hotcoco.COCO(  # numbered anew: ids may be beyond int64
        {
            "images": [{"id": i, "height": r.height, "width": r.width} for i, r in enumerate(dataset.records, 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(categories.names, 1)],
            "annotations": [
                {"id": i, "image_id": n, "category_id": a.label + 1, "bbox": list(a.bbox), "area": a.area, "iscrowd": 0}
                for i, (a, n) in enumerate(own, 1)
            ],
        }
    ).healthcheck()
    named = {entry["code"]: set(entry["affected_ids"]) for entry in report["warnings"]}
    twice, skipped = named.get("near_duplicate", set()), named.get("near_duplicate_check_skipped", set())
    return {a.id for i, (a, image) in enumerate(own, 1) if i in twice or image in skipped}


# Train beside test


def _shares(subject: Subject) -> Iterator[Finding]:
    """Compare how often each class is seen; images, not instances, are exchanged, for those of one image are alike."""
    parts = dict(subject.parts)
    categories = subject.engine.categories
    names = {MAIN: categories.names, **categories.subcategories}
    if len(parts) < 2 or min(len(dataset) for dataset in parts.values()) < FEWEST_IMAGES:
        yield SHARES.skipped(f"fewer than {FEWEST_IMAGES} images in a set: shares of classes say nothing")
        return
    found, values = [], {}
    for head, classes in names.items():
        counts = {role: _per_image(dataset, head, len(classes)) for role, dataset in parts.items()}
        shares = {role: of_images.sum(0) / max(of_images.sum(), 1) for role, of_images in counts.items()}
        values[head] = {role: [round(float(x), 3) for x in share] for role, share in shares.items()}
        apart = float(np.abs(shares["train"] - shares["test"]).sum() / 2)
        if apart >= APART and all(map(np.any, counts.values())) and _is_rare(counts["train"], counts["test"], apart):
            differences = np.abs(shares["train"] - shares["test"])
            order = [i for i in np.argsort(-differences)[:SHOWN] if differences[i] >= TOLD]
            told = [f"{classes[i]} {shares['train'][i]:.0%} and {shares['test'][i]:.0%}" for i in order]
            found.append(
                SHARES.warning(
                    f"{'categories' if head == MAIN else head}: the classes are not as frequent in the training set "
                    f"as in the test set: {_some(told)}",
                    "The sets are of other times or places, or their labels do not mean the same: what was learned "
                    "does not hold for what is scored",
                    "Look at some labels of both sets; `raytune-m2f init --val 0.2` divides all images anew, by class.",
                )
            )
    yield from found or [SHARES.ok("the classes are as frequent in the test set as in the training set", **values)]


def _per_image(dataset: CocoDataset, head: str, classes: int) -> NDArray[np.int64]:
    """(images, classes): instances of each class that is known."""
    counts = np.zeros((len(dataset), classes), np.int64)
    for row, record in enumerate(dataset.records):
        labels = [a.label if head == MAIN else a.sublabels[head] for a in record.instances]
        np.add.at(counts[row], [label for label in labels if label >= 0], 1)
    return counts


def _is_rare(train: NDArray[np.int64], test: NDArray[np.int64], apart: float) -> bool:
    """Whether images that are divided at random are hardly ever so far apart (a permutation test)."""
    images = np.concatenate((train, test))
    whole, smaller = images.sum(0), min(len(train), len(test))
    draw = np.random.default_rng(0)
    reached = 0
    for _ in range(PERMUTATIONS):
        first = images[draw.choice(len(images), smaller, replace=False)].sum(0)
        second = whole - first
        difference = first / max(first.sum(), 1) - second / max(second.sum(), 1)
        reached += float(np.abs(difference).sum() / 2) >= apart
    return reached <= RARE * PERMUTATIONS


def _some(values: Sequence[str]) -> str:
    return ", ".join(first_of(values, 8))


LABELS = Check("data/labels", "has every class of every head enough labels?", _labels, quick=True)
CATEGORIES = Check("data/categories", "is every category in training and test set?", _categories, quick=True)
MASKS_CHECK = Check("data/masks", "are the masks what was drawn, and large enough?", _masks, quick=True)
CROWDS = Check("data/crowds", "are single objects marked as crowds?", _crowds, quick=True)
IDS = Check("data/ids", "is every image and object there once?", _ids, quick=True)
INSTANCES = Check("data/instances", "do queries and detections suffice for the fullest image?", _instances, quick=True)
SHARES = Check("data/shares", "are the classes as frequent in the test set as in training?", _shares, quick=True)
FIELDS = Check("data/fields", "does the file say more of the objects than is learned?", _fields, quick=True)

CHECKS: tuple[Check, ...] = (LABELS, CATEGORIES, MASKS_CHECK, CROWDS, IDS, INSTANCES, SHARES, FIELDS)
