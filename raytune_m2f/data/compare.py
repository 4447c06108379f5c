"""Compare the labels of annotation files: with each other, with those that a study began with, with those of a model.

Labels are compared by name. A model may be scored by a file whose ids and order differ, or that lacks some heads.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.coco import load_coco
from raytune_m2f.data.records import Annotation, CocoDataset, paused_gc
from raytune_m2f.data.summary import summarize
from raytune_m2f.errors import DatasetError

Fingerprint = dict[str, Any]

log = logging.getLogger(__name__)


@paused_gc()
def fingerprint(file: Path, known: Fingerprint | None = None) -> Fingerprint | None:
    """What a study remembers of an annotation file: "sha256", "images", "annotations", "categories", "subcategories".

    Args:
        known: an earlier fingerprint, which is returned at once if the file is still the same.

    Returns:
        None if the file is not on this machine, or no annotation file.
    """
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.get("sha256") == digest:
        return known
    try:
        parsed = json.loads(content)
        return {
            "sha256": digest,
            "images": len(parsed["images"]),
            "annotations": len(parsed["annotations"]),
            "categories": [c["name"] for c in sorted(parsed["categories"], key=lambda category: category["id"])],
            "subcategories": {head: list(names) for head, names in (parsed.get("subcategories") or {}).items()},
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # the engine says what is wrong with it


def label_differences(before: Fingerprint, now: Fingerprint, heads: Sequence[str]) -> list[str]:
    """What differs between two fingerprints in the names of categories and of these heads' classes, in words."""
    pairs = [("categories", before["categories"], now["categories"])]
    pairs += [(f"subcategory {h!r}", before["subcategories"].get(h), now["subcategories"].get(h)) for h in heads]

    def text(names: Sequence[str] | None) -> str:
        return "none" if names is None else ", ".join(map(str, names))

    return [f"{what}: {text(old)} before, {text(new)} now" for what, old, new in pairs if old != new]


def check_same_labels(train: CocoDataset, test: CocoDataset) -> None:
    """Refuse two datasets whose labels do not mean the same.

    Raises:
        DatasetError: the first category or subcategory list that differs, with both files.
    """
    ours, theirs = train.categories, test.categories
    lists: list[tuple[str, object, object]] = [
        ("categories", dict(zip(ours.ids, ours.names, strict=True)), dict(zip(theirs.ids, theirs.names, strict=True)))
    ]
    for head in dict.fromkeys((*ours.subcategories, *theirs.subcategories)):
        lists.append((f"subcategories {head!r}", ours.subcategories.get(head), theirs.subcategories.get(head)))
    for what, mine, other in lists:
        if mine != other:
            raise DatasetError(
                f"{what} differ between the datasets {train.name!r} and {test.name!r}, so their labels do "
                f"not mean the same.\n  {train.annotations_file}: {mine}\n  {test.annotations_file}: {other}"
            )


def load_for_model(categories: Categories, annotations: Path, images: Path) -> CocoDataset:
    """Read an annotation file to score a model by; the log says what was read.

    Categories and classes are matched by name: the file may have them under other ids and in another order. It may
    lack heads of the model (a plain COCO file has none): these are then not scored.

    Args:
        categories: of the model.

    Returns:
        The data set with the model's labels, and with the file's own category ids.

    Raises:
        DatasetError: the file is wrong, has other categories or classes, or no instance to find.
    """
    dataset = load_coco(annotations.stem, annotations, images, tuple(categories.subcategories), skip_missing_heads=True)
    dataset = _relabel(_drop_unlabelled_heads(dataset), categories)
    if missing := [head for head in categories.subcategories if head not in dataset.categories.subcategories]:
        log.warning("%s has no labels of the subcategories %s: they are not scored", annotations, ", ".join(missing))
    summary = summarize(dataset)
    log.info("what was read: %s", "\n    ".join(summary.lines()))
    for warning in summary.warnings():
        log.warning("%s", warning)
    summary.require_usable()
    summary.require_instances()
    return dataset


def _drop_unlabelled_heads(dataset: CocoDataset) -> CocoDataset:
    if not dataset.unlabelled:
        return dataset
    kept = {h: names for h, names in dataset.categories.subcategories.items() if h not in dataset.unlabelled}

    def drop(annotation: Annotation) -> Annotation:
        return replace(annotation, sublabels={head: annotation.sublabels[head] for head in kept})

    return replace(dataset.map_annotations(drop, replace(dataset.categories, subcategories=kept)), unlabelled={})


def _relabel(dataset: CocoDataset, model: Categories) -> CocoDataset:
    """The data set with the labels of a model, matched by name.

    Raises:
        DatasetError: names that only one of the two has.
    """
    ours = dataset.categories
    _require_same_names(model, ours, dataset.annotations_file)
    ids = dict(zip(ours.names, ours.ids, strict=True))
    classes = {head: model.subcategories[head] for head in ours.subcategories}
    wanted = Categories(tuple(ids[name] for name in model.names), model.names, classes)
    if ours.ids != model.ids:
        log.info("%s has other category ids than the model: categories are matched by name", dataset.annotations_file)
    if wanted == ours:
        return dataset
    log.warning("%s has the model's labels in another order: they are matched by name", dataset.annotations_file)
    labels = [wanted.names.index(name) for name in ours.names]
    sublabels = {head: [names.index(name) for name in ours.subcategories[head]] for head, names in classes.items()}

    def relabel(annotation: Annotation) -> Annotation:
        new = {head: sublabels[head][old] if old >= 0 else old for head, old in annotation.sublabels.items()}
        return replace(annotation, label=labels[annotation.label], sublabels=new)

    return dataset.map_annotations(relabel, wanted)


def _require_same_names(model: Categories, file: Categories, source: Path) -> None:
    pairs = [("categories", model.names, file.names)]
    pairs += [(f"classes of {head!r}", model.subcategories[head], names) for head, names in file.subcategories.items()]
    problems = []
    for what, theirs, ours in pairs:
        for where, names, others in (("the model", theirs, ours), ("the file", ours, theirs)):
            if only := [name for name in names if name not in others]:
                problems.append(f"{what}: only {where} has {', '.join(only)}")
    if problems:
        raise DatasetError(
            f"{source} has other labels than the model:\n  " + "\n  ".join(problems) + "\n"
            "Evaluate on annotations with the names that the model was trained on."
        )
