"""From an export to a project: the whole way, in order."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_m2f.config import load_config
from raytune_m2f.data.labels.fields import alike
from raytune_m2f.data.records import paused_gc
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import InputError
from raytune_m2f.project import files
from raytune_m2f.project.annotations import annotations_of
from raytune_m2f.project.export import Export
from raytune_m2f.project.fields import Candidate, Head, candidates, count_classes, heads_of, without
from raytune_m2f.project.masks import Masks, Photo, count_categories, masks_of, several, unannotated
from raytune_m2f.project.numbers import Numbers, numbers_of
from raytune_m2f.project.proposal import Device, Proposal, propose
from raytune_m2f.project.settings import Setting
from raytune_m2f.project.split import Split, only_once, sequences, split
from raytune_m2f.study.space import load_space
from raytune_m2f.study.status import relative
from raytune_m2f.training.check import check_experiment

Data = Mapping[str, Mapping[str, Any]]
"""The content of each annotation file, by its name without .json."""
TRIALS = 12
FEW_SCORED = 3
"""Images in val, below which a score says little."""
"""Of the study that is suggested: enough for the three or four keys of space.yaml."""


@dataclass(frozen=True)
class Project:
    """What was read, decided and written.

    Attributes:
        output: the folder, as it was given.
        export: what was read.
        categories: their names, in the order of their ids.
        candidates: every field of the objects: a head, or why it is none.
        split: the images of each part.
        numbers: the figures that the configuration follows from.
        proposal: the configuration and the search space.
        left_out: what of the export is not in the project, each with its number.
        remarks: what is worth a look.
    """

    output: Path
    export: Export
    categories: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    split: Split
    numbers: Numbers
    proposal: Proposal
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.output / files.CONFIG

    @property
    def heads(self) -> tuple[Head, ...]:
        """The subcategory heads."""
        return heads_of(self.candidates)

    @property
    def parts(self) -> dict[str, tuple[Photo, ...]]:
        """The images of every part that there is."""
        return _parts(self.split)

    def counts(self) -> Iterator[tuple[str, str, list[int]]]:
        """Rows for a table: of what, its class, and how many instances each part has; images and instances first."""
        parts = list(self.parts.values())
        yield "images", "", [len(photos) for photos in parts]
        yield "instances", "", [sum(len(photo.instances) for photo in photos) for photos in parts]
        empty = [sum(not photo.instances for photo in photos) for photos in parts]
        if any(empty):
            yield "images", "(without an object)", empty
        of_categories = [count_categories(photos) for photos in parts]
        for name in self.categories:
            yield "category", name, [counts[name] for counts in of_categories]
        for head in self.heads:
            of_head = [count_classes(head, (t for photo in photos for t in photo.instances)) for photos in parts]
            for label, name in enumerate(head.classes):
                yield head.name, name, [counts[label] for counts in of_head]
            if any(counts[None] for counts in of_head):
                yield head.name, "(not known)", [counts[None] for counts in of_head]

    def commands(self) -> list[str]:
        """What to type next, from the working directory."""
        at = Path(relative(os.path.abspath(self.output)))
        names = (files.CONFIG, files.SPACE, "runs/first", "studies/first")
        config, space, run, study = (str(at / name) for name in names)
        return [
            shlex.join(["raytune-m2f", "doctor", "--config", config]),
            shlex.join(["raytune-m2f", "train", "--config", config, "--output", run]),
            shlex.join(
                ["raytune-m2f", "tune", "--config", config, "--space", space, "--study", study, "--trials", str(TRIALS)]
            ),
        ]


@paused_gc()
def init_project(
    export: Export,
    output: Path,
    *,
    device: Device,
    subcategories: Sequence[str] = (),
    val: float | None = None,
    group_by: str | None = None,
    seed: int = 0,
) -> Project:
    """Decide on heads, split and configuration, check them as `train` would, and write them to `output`.

    The export's files and images are not touched. The arguments are those of `raytune_m2f.init`.

    Raises:
        InputError: the export, an argument or what is in `output` does not allow it; nothing is written.
    """
    files.require_writable(output)
    masks = masks_of(export)
    found = candidates(export, masks, subcategories)
    divided = split(masks.photos, heads_of(found), val=val, group_by=group_by, seed=seed)
    found = _scored(found, divided, asked=bool(subcategories))
    heads = heads_of(found)
    categories, unused = _categories(export, masks)
    numbers = numbers_of(divided.train, divided.val, categories, heads)
    proposal = propose(numbers, device)
    data = {part: annotations_of(photos, categories, heads) for part, photos in _parts(divided).items()}
    notes = _checked(data, proposal, masks.root, output)
    images, why = files.images_path(masks.root, output)
    text = files.config_text(_registered(proposal, data, heads, images, why), _title(export, numbers, divided))
    files.write(output, data, text, files.space_text(proposal, _space_title(output)))
    left_out = [*export.notes, *masks.left_out, *unused, *_unannotated(masks)]
    remarks = [
        *_doubts(found),
        *_alike(categories, heads),
        *_frames(divided, group_by),
        *_few(divided),
        *only_once(divided, heads),
        *notes,
    ]
    return Project(
        output, export, categories, tuple(found), divided, numbers, proposal, tuple(left_out), tuple(remarks)
    )


def _parts(divided: Split) -> dict[str, tuple[Photo, ...]]:
    parts = {"train": divided.train, "val": divided.val, "test": divided.test}
    return {name: photos for name, photos in parts.items() if photos}


def _scored(found: list[Candidate], divided: Split, *, asked: bool) -> list[Candidate]:
    """The candidates, without heads that have no label in a part, which could not be learnt, or not be scored."""
    reasons = {}
    for head in heads_of(found):
        for part, photos in (("train", divided.train), ("val", divided.val)):
            counts = count_classes(head, (thing for photo in photos for thing in photo.instances))
            if counts.keys() <= {None}:
                reasons[head.name] = f"no object in {part} has a value"
    if asked and reasons:
        name, reason = next(iter(reasons.items()))
        raise InputError(f"--subcategory: the head {name!r} cannot be trained and scored: {reason}.")
    return without(found, reasons)


def _categories(export: Export, masks: Masks) -> tuple[tuple[str, ...], list[str]]:
    """The categories that an object has, in the export's order, and a remark on the others."""
    used = {thing.item.category for photo in masks.photos for thing in photo.things}
    named = dict.fromkeys([*export.categories, *sorted(used)])
    unused = [name for name in named if name not in used]
    remark = f"categories that no object has: {', '.join(unused)}"
    return tuple(name for name in named if name in used), [remark] if unused else []


def _doubts(found: Iterable[Candidate]) -> Iterator[str]:
    for one in found:
        if one.head is not None and one.doubt:
            yield f"the head {one.head.name} has little to learn: {one.doubt}"


def _alike(categories: Sequence[str], heads: Iterable[Head]) -> Iterator[str]:
    for what, names in (("categories", categories), *((f"classes of {head.name}", head.classes) for head in heads)):
        if groups := alike(names):
            listed = "; ".join(", ".join(map(repr, group)) for group in groups)
            yield f"{what} that differ in upper case, blanks, - and _ alone, each learnt as its own: {listed}"


def _frames(divided: Split, group_by: str | None) -> Iterator[str]:
    if divided.is_new and group_by is None and (line := sequences((*divided.train, *divided.val))):
        yield line


def _few(divided: Split) -> Iterator[str]:
    if len(divided.val) < FEW_SCORED:
        yield (
            f"{several(len(divided.val), 'image')} in val: by so few a score is mostly chance, and no study can tell "
            "two trials apart. Annotate more, or give a larger --val"
        )


def _unannotated(masks: Masks) -> Iterator[str]:
    if number := unannotated(masks):
        yield f"{several(number, 'image file')} in the same folders, not used"


def _registered(proposal: Proposal, parts: Iterable[str], heads: Sequence[Head], images: str, why: str) -> Proposal:
    """The proposal with the data sets."""
    entries = [
        Setting(f"DATASETS.REGISTER.{part}", {"annotations": f"{files.DATA}/{part}.json", "images": images}, "")
        for part in parts
    ]
    first = Setting(entries[0].key, entries[0].value, f"paths start at this file; the images are {why}")
    from_places = ", ".join(f"{head.name} from {head.place}" for head in heads)
    named = [
        Setting("DATASETS.TRAIN", ["train"], ""),
        Setting("DATASETS.TEST", ["val"], "what scores a training"),
        Setting(
            "DATASETS.SUBCATEGORIES",
            [head.name for head in heads],
            from_places or "no head beside the category: no field was taken for labels",
        ),
    ]
    return Proposal(proposal.base, (first, *entries[1:], *named, *proposal.settings), proposal.space)


def _checked(data: Data, proposal: Proposal, root: Path, output: Path) -> list[str]:
    """What `train` would say of these files, which are written apart for that. Raises InputError if it would refuse."""
    with tempfile.TemporaryDirectory() as folder:
        apart = Path(folder)
        heads = [Head(name, "", ()) for name in data["train"]["subcategories"]]
        text = files.config_text(_registered(proposal, data, heads, str(root), ""), [])
        try:
            files.write(apart, data, text, files.space_text(proposal, []))
            config = load_config(apart / files.CONFIG)
            load_space(apart / files.SPACE, config)
            notes = check_experiment(config, build_engine(config))
        except InputError as error:
            raise InputError(str(error).replace(folder, str(output))) from None
    return [note.replace(folder, str(output)) for note in notes]


def _title(export: Export, numbers: Numbers, divided: Split) -> list[str]:
    read = ", ".join(file.name for file in export.files)
    return [
        f"Written by raytune-m2f init from {read} ({export.dialect}): {numbers.train} images with {numbers.instances} "
        f"instances to train on, {numbers.val} images to score.",
        *(f"Split: {line}." for line in divided.how),
        "Change what you like: it is a configuration like any other (docs/own_data.md). init does not write over a "
        "file that was changed.",
    ]


def _space_title(output: Path) -> list[str]:
    return [
        f"What a study of some {TRIALS} trials of config.yaml may change, around its values; the first trial has these "
        "values themselves. Written by raytune-m2f init."
    ]
