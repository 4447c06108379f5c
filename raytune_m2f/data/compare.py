"""What a study remembers of an annotation file: whether it has changed, and what its labels and numbers were.

A data set to score a trained model by: labels are compared by name, heads that are not there are left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.coco import load_coco
from raytune_m2f.data.records import Annotation, CocoDataset, without_collection
from raytune_m2f.data.summary import summarize
from raytune_m2f.errors import DatasetError

Fingerprint = dict[str, Any]


@without_collection()
def fingerprint(file: Path, known: Fingerprint | None = None) -> Fingerprint | None:
    """Of an annotation file: "sha256", "images", "annotations", "categories" by id, "subcategories".

    Args:
        known: an earlier one, which is returned at once if the file is still the same.

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


def other_labels(before: Mapping[str, Any], now: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    """What differs in the names of categories and of these heads' classes, in words."""
    pairs = [("categories", before["categories"], now["categories"])]
    pairs += [(f"subcategory {h!r}", before["subcategories"].get(h), now["subcategories"].get(h)) for h in heads]
    return [f"{what}: {_names(then)} before, {_names(here)} now" for what, then, here in pairs if then != here]


def _names(names: Sequence[str] | None) -> str:
    return "none" if names is None else ", ".join(map(str, names))


log = logging.getLogger(__name__)


def load_for_model(categories: Categories, annotations: Path, images: Path) -> CocoDataset:
    """Read an annotation file whose labels are to be those of a model; says in the log what was read.

    Categories and classes are compared by name: the file may have them under other ids and in another order. It may
    lack heads of the model (a plain COCO file has none): these are then not scored.

    Returns:
        the data set with the model's labels, and with the file's own category ids.

    Raises:
        DatasetError: the file is wrong, cannot be meant, has other categories or classes, or nothing to find.
    """
    dataset = load_coco(annotations.stem, annotations, images, tuple(categories.subcategories), if_there=True)
    dataset = without_heads(dataset, tuple(dataset.unlabelled))
    dataset = with_labels_of(categories, dataset)
    if missing := [head for head in categories.subcategories if head not in dataset.categories.subcategories]:
        log.warning("%s has no labels of the subcategories %s: they are not scored", annotations, ", ".join(missing))
    summary = summarize(dataset)
    log.info("what was read: %s", "\n    ".join(summary.lines()))
    for warning in summary.warnings():
        log.warning("%s", warning)
    summary.require_sense()
    summary.require_something_to_find()
    return dataset


def without_heads(dataset: CocoDataset, heads: Sequence[str]) -> CocoDataset:
    """The data set as if it had no such heads."""
    if not heads:
        return dataset
    kept = {head: names for head, names in dataset.categories.subcategories.items() if head not in heads}

    def without(annotation: Annotation) -> Annotation:
        return replace(annotation, sublabels={head: annotation.sublabels[head] for head in kept})

    records = tuple(replace(r, annotations=tuple(map(without, r.annotations))) for r in dataset.records)
    return replace(dataset, records=records, categories=replace(dataset.categories, subcategories=kept), unlabelled={})


def with_labels_of(categories: Categories, dataset: CocoDataset) -> CocoDataset:
    """The data set with the labels of a model, matched by name.

    Raises:
        DatasetError: a name is here and not there; with all that differs.
    """
    ours = dataset.categories
    if problems := list(_other_names(categories, ours)):
        raise DatasetError(
            f"{dataset.annotations_file} has other labels than the model:\n  " + "\n  ".join(problems) + "\n"
            "Evaluate on annotations with the names that the model was trained on."
        )
    ids = dict(zip(ours.names, ours.ids, strict=True))
    classes = {head: categories.subcategories[head] for head in ours.subcategories}
    wanted = Categories(tuple(ids[name] for name in categories.names), categories.names, classes)
    if ours.ids != categories.ids:
        log.info("%s has other category ids than the model: categories are matched by name", dataset.annotations_file)
    if wanted == ours:
        return dataset
    log.warning("%s has the model's labels in another order: they are matched by name", dataset.annotations_file)
    labels = [wanted.names.index(name) for name in ours.names]
    sublabels = {head: [names.index(name) for name in ours.subcategories[head]] for head, names in classes.items()}

    def matched(annotation: Annotation) -> Annotation:
        return replace(
            annotation,
            label=labels[annotation.label],
            sublabels={h: sublabels[h][value] if value >= 0 else value for h, value in annotation.sublabels.items()},
        )

    records = tuple(replace(r, annotations=tuple(map(matched, r.annotations))) for r in dataset.records)
    return replace(dataset, records=records, categories=wanted)


def _other_names(model: Categories, file: Categories) -> list[str]:
    """What differs, in words."""
    pairs = [("categories", model.names, file.names)]
    pairs += [(f"classes of {h!r}", model.subcategories[h], names) for h, names in file.subcategories.items()]
    problems = []
    for what, theirs, ours in pairs:
        for where, others in (
            ("only the model has", [name for name in theirs if name not in ours]),
            ("only the file has", [name for name in ours if name not in theirs]),
        ):
            if others:
                problems.append(f"{what}: {where} {', '.join(others)}")
    return problems
