"""The numbers of every data set before anything trains, and what in them is suspicious or unusable.

`Summary` describes one annotation file, `DataSummary` all files of an experiment. `lines` and `text` are for the log,
`notes` are shown to the user, `require_usable` refuses to train where there are `problems`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from raytune_m2f.data.agreement import Agreement, compare_masks_and_boxes
from raytune_m2f.data.categories import Categories
from raytune_m2f.data.images import Headers, inspect_headers
from raytune_m2f.data.records import CocoDataset, paused_gc
from raytune_m2f.errors import DatasetError, first_of
from raytune_m2f.model import UNKNOWN
from raytune_m2f.notes import Note

SHOWN = 12
CROWD_SHARE = 0.5
"""From this share of all annotations on, many crowds are suspicious."""
_CROWDS_MEAN = "Crowds are neither trained on nor counted"
_CROWD_ADVICE = (
    "If they are single objects (some tools set iscrowd 1 on every mask that is run lengths), set iscrowd to 0"
)


@dataclass(frozen=True)
class Summary:
    """One annotation file in numbers. Instances are annotations that are no crowds.

    Attributes:
        name, file: of the data set.
        categories: what labels mean.
        images: all that the file names.
        with_instances: images with an instance; the others are trained on as background, unless they are filtered.
        per_category: name of every category to its number of instances and of crowds.
        most_instances: of the fullest image.
        labels: for each head, how many instances have a label and how many have none.
        per_class: for each head, how many instances are of which class.
        without_polygon: annotations left out because they have no polygon of three points.
        unnamed_files: images in the folder that the file does not name.
        repeated: files that more than one image names.
        agreement: of masks and boxes.
        unlabelled, remarks, unused: of `CocoDataset`.
        headers: of the image files, if they were inspected.
    """

    name: str
    file: str
    categories: Categories
    images: int
    with_instances: int
    per_category: dict[str, tuple[int, int]]
    most_instances: int
    labels: dict[str, tuple[int, int]]
    per_class: dict[str, dict[str, int]]
    without_polygon: int
    unnamed_files: int
    repeated: tuple[str, ...]
    agreement: Agreement
    unlabelled: dict[str, str]
    remarks: tuple[Note, ...]
    unused: Note | None
    headers: Headers | None = None

    @property
    def instances(self) -> int:
        """Annotations that are no crowds."""
        return sum(instances for instances, _ in self.per_category.values())

    @property
    def crowds(self) -> int:
        """Annotations with iscrowd 1."""
        return sum(crowds for _, crowds in self.per_category.values())

    @property
    def heads(self) -> tuple[str, ...]:
        """The subcategory heads."""
        return tuple(self.labels)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint or a study remembers of the data set."""
        return {"images": self.images, "instances": self.instances, "crowds": self.crowds}

    def lines(self) -> Iterator[str]:
        """The numbers, in words."""
        left_out = {
            "images without an instance": self.images - self.with_instances,
            "crowds": self.crowds,
            "annotations without a valid polygon": self.without_polygon,
        }
        besides = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        yield (
            f"{self.name} ({self.file}): {self.images} images, {self.instances} instances, "
            f"{self.most_instances} in an image at most" + (f"; besides {besides}" if besides else "")
        )
        ordered = sorted(self.per_category.items(), key=lambda item: -item[1][0])
        if self.instances:
            yield f"instances of {_some([f'{name} {count}' for name, (count, _) in ordered if count])}"
        if absent := [name for name, (count, _) in self.per_category.items() if not count]:
            yield f"no instance of {len(absent)} of the {len(self.categories)} categories: {_some(absent)}"
        for head, (known, unknown) in self.labels.items():
            classes = [f"{name} {count}" for name, count in self.per_class[head].items()]
            yield f"{head}: {known} labels known ({_some(classes)}), {unknown} unknown"
        if self.agreement.compared:
            agreeing = self.agreement.compared - self.agreement.differing
            yield f"masks and boxes agree in {agreeing} of {self.agreement.compared} annotations"
        if self.headers is not None:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.headers.kinds.items())
            yield f"images, {self.headers.inspected} of {self.images} inspected: {kinds}"
        if self.unnamed_files:
            yield f"{self.unnamed_files} further images in the folder, which the file does not name"

    def notes(self) -> Iterator[Note]:
        """What may be right, but is worth a look."""
        unused = [self.unused] if self.unused else []
        for note in (*self._crowd_notes(), *self._mask_notes(), *self.remarks, *unused, *self._file_notes()):
            yield note._replace(figure=f"{self.file}: {note.figure}")

    def warnings(self) -> list[str]:
        """The notes, in words."""
        return [note.text for note in self.notes()]

    def _crowd_notes(self) -> Iterator[Note]:
        total = self.crowds + self.instances
        only = [f"{name} ({crowds})" for name, (count, crowds) in self.per_category.items() if crowds and not count]
        if only:
            seen = f"all annotations of {_some(only)} are crowds (iscrowd 1)"
            yield Note("data/crowds", seen, _CROWDS_MEAN, _CROWD_ADVICE)
        elif self.crowds and self.crowds >= CROWD_SHARE * total:
            seen = f"{self.crowds} of {total} annotations are crowds (iscrowd 1)"
            yield Note("data/crowds", seen, _CROWDS_MEAN, _CROWD_ADVICE)

    def _mask_notes(self) -> Iterator[Note]:
        agreement = self.agreement
        if agreement.differing and not agreement.wrong:
            yield Note(
                "data/masks",
                f"{agreement.differing} of {agreement.compared} masks lie elsewhere than their own bbox "
                f"[x, y, width, height]: {'; '.join(agreement.examples)}",
                "The masks are what is trained on",
                "Correct these masks, or their boxes",
            )
        if agreement.areas_differing:
            yield Note(
                "data/masks",
                f"{agreement.areas_differing} of {agreement.compared} areas cannot be those of their masks",
                "segm/APs, APm and APl go by the area",
                "Leave the field out to have it counted",
            )
        if agreement.without_pixel:
            yield Note(
                "data/masks",
                f"{agreement.without_pixel} masks have no pixel",
                "No prediction can match them",
                "Take these annotations out of the file",
            )
        if self.without_polygon:
            yield Note(
                "data/masks",
                f"left out {self.without_polygon} annotations without a valid polygon (of three points)",
                "",
                "Draw these objects, or take them out of the file",
            )

    def _file_notes(self) -> Iterator[Note]:
        if self.headers is not None and self.headers.pages:
            yield Note(
                "data/files",
                f"{self.headers.pages} of {self.headers.inspected} images that were inspected have several pages, of "
                "which the first is used",
                "",
                "Save each page as a file of its own to use it",
            )
        if self.repeated:
            seen = f"{len(self.repeated)} files are named by several images: {_some(self.repeated, 3)}"
            yield Note(
                "data/ids", seen, "Each counts as an image of its own", "Put all annotations of a file under one image"
            )

    def problems(self) -> Iterator[Note]:
        """What is certainly wrong, whatever the file is for."""
        agreement = self.agreement
        if self.headers is not None and (found := self.headers.problems):
            what = f"of {self.headers.inspected} images inspected, {len(found)} are of no use:"
            seen = "\n  ".join([f"{self.file}: {what}", *first_of(found, SHOWN)])
            yield Note("data/files", seen)
        if agreement.wrong:
            what = f"{agreement.differing} of {agreement.compared} masks lie elsewhere than their own bbox"
            if not agreement.differing:
                what = "the masks and their boxes do not go together"
            reading = f"It seems that {agreement.reading}." if agreement.reading else "Correct the file."
            seen = "\n  ".join([f"{self.file}: {what} [x, y, width, height].", *agreement.examples, reading])
            yield Note("data/masks", seen)

    def require_instances(self) -> None:
        """Raises DatasetError if there is no instance that a prediction could match."""
        if not self.instances:
            raise DatasetError(self.nothing_to_find())

    def nothing_to_find(self) -> str:
        """The error message for a test file without an instance."""
        return f"nothing to find in {self.file}: {self.why_no_instances()}"

    def why_no_instances(self) -> str:
        """Why there is no instance, and what to do."""
        if self.crowds:
            return (
                f"all {self.crowds} annotations are crowds (iscrowd 1), which are not counted. Set iscrowd to 0 on "
                "single objects, or give a file with instances."
            )
        left_out = f" ({self.without_polygon} have no polygon of three points)" if self.without_polygon else ""
        return f"{self.images} images, but no annotation with a mask{left_out}. Give a file with instances."

    def require_usable(self) -> None:
        """Raises DatasetError with all `problems`."""
        if found := [note.text for note in self.problems()]:
            raise DatasetError("\n".join(found))

    def unlabelled_message(self, head: str) -> str:
        """Why no instance has a label of `head`."""
        crowds = f"no instance has a label of the subcategory {head!r}: only crowds have, which are not counted."
        return f"{self.file}: {self.unlabelled.get(head, crowds)}"


@paused_gc()
def summarize(dataset: CocoDataset, *, inspect_images: bool = False) -> Summary:
    """The numbers of a data set; with `inspect_images` also what the headers of some of its image files say."""
    heads = dataset.categories.subcategories
    per_image = [record.instances for record in dataset.records]
    instances = [a for annotations in per_image for a in annotations]
    counts = Counter(a.label for a in instances)
    crowds = Counter(a.label for record in dataset.records for a in record.annotations if a.iscrowd)
    of_class = {head: Counter(a.sublabels[head] for a in instances) for head in heads}
    files = Counter(os.fspath(record.file) for record in dataset.records)
    return Summary(
        name=dataset.name,
        file=str(dataset.annotations_file),
        categories=dataset.categories,
        images=len(dataset.records),
        with_instances=sum(map(bool, per_image)),
        per_category={name: (counts[label], crowds[label]) for label, name in enumerate(dataset.categories.names)},
        most_instances=max(map(len, per_image), default=0),
        labels={head: (len(instances) - count[UNKNOWN], count[UNKNOWN]) for head, count in of_class.items()},
        per_class={head: {name: of_class[head][i] for i, name in enumerate(heads[head])} for head in heads},
        without_polygon=dataset.without_polygon,
        unnamed_files=dataset.unnamed_files,
        repeated=tuple(file for file, count in files.items() if count > 1),
        agreement=compare_masks_and_boxes(dataset),
        unlabelled=dataset.unlabelled,
        remarks=dataset.remarks,
        unused=dataset.unused,
        headers=inspect_headers(dataset.records) if inspect_images else None,
    )


class ClassCounts(NamedTuple):
    """Instances of each main category, and of each class of every subcategory head, in the order of their labels."""

    categories: tuple[int, ...]
    subcategories: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DataSummary:
    """What an experiment trains on, file by file, and is scored by.

    Attributes:
        train: each training set.
        test: the test set.
        filter_empty: whether images without instances are left out of training.
        shared: image files that are both trained on and scored by.
    """

    train: tuple[Summary, ...]
    test: Summary
    filter_empty: bool
    shared: tuple[str, ...]

    @property
    def images(self) -> int:
        """Images that are trained on."""
        return sum(part.with_instances if self.filter_empty else part.images for part in self.train)

    @property
    def instances(self) -> int:
        """Instances that are trained on."""
        return sum(part.instances for part in self.train)

    @property
    def heads(self) -> tuple[str, ...]:
        """The subcategory heads."""
        return self.test.heads

    @property
    def most_instances(self) -> int:
        """Of the fullest training image."""
        return max(part.most_instances for part in self.train)

    @property
    def class_counts(self) -> ClassCounts:
        """How many instances that are trained on have each label."""
        of_parts = [[count for count, _ in part.per_category.values()] for part in self.train]
        heads = {head: [list(part.per_class[head].values()) for part in self.train] for head in self.heads}
        return ClassCounts(_added(of_parts), {head: _added(counts) for head, counts in heads.items()})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint or a study remembers of the data."""
        return {part.name: part.identity for part in (*self.train, self.test)}

    def text(self) -> str:
        """All numbers, for the log."""
        lines = ["what was read:"]
        for role, part in (*(("train", part) for part in self.train), ("test", self.test)):
            first, *others = part.lines()
            lines += [f"  {role} {first}", *(f"    {line}" for line in others)]
        if left_out := sum(part.images for part in self.train) - self.images:
            lines.append(f"  not trained on: {left_out} images without an instance")
        return "\n".join(lines)

    def notes(self) -> list[Note]:
        """What may be right, but is worth a look."""
        found = [note for part in (*self.train, self.test) for note in part.notes()]
        if self.shared:
            found.append(
                Note(
                    "data/duplicates",
                    f"{len(self.shared)} images are both in the training and in the test set, whose score then says "
                    f"little of other images: {_some(self.shared, 3)}",
                    "",
                    "Take them out of one of the two",
                )
            )
        for part in self.train:
            found += [Note("data/labels", f"{part.file}: {text}") for text in part.unlabelled.values()]
        return list(dict.fromkeys(found))  # one file may be both trained on and scored by

    def warnings(self) -> list[str]:
        """The notes, in words."""
        return [note.text for note in self.notes()]

    def problems(self) -> Iterator[list[Note]]:
        """What is wrong, or leaves nothing to learn or to find, in groups: the first one can be the cause of others."""
        for part in (*self.train, self.test):
            yield list(part.problems())
        if not self.instances:
            reasons = (f"{part.file}: {part.why_no_instances()}" for part in self.train)
            yield [Note("data/instances", f"nothing to learn: {'; '.join(reasons)}")]
        if not self.test.instances:
            yield [Note("data/instances", self.test.nothing_to_find())]
        if not (self.instances and self.test.instances):
            return
        for head in self.heads:
            for parts in (self.train, (self.test,)):
                if all(part.labels[head][0] == 0 for part in parts):
                    yield [Note("data/labels", "\n".join(part.unlabelled_message(head) for part in parts))]

    def require_usable(self) -> None:
        """Raises DatasetError if a file is wrong, or there is nothing to learn or to find."""
        for group in filter(None, self.problems()):
            raise DatasetError("\n".join(note.text for note in group))


def summarize_all(
    train: Sequence[CocoDataset], test: CocoDataset, *, filter_empty: bool, inspect_images: bool = False
) -> DataSummary:
    """The numbers of an experiment's data sets; see `summarize`."""
    scored = {os.path.normpath(record.file) for record in test.records}
    trained = {os.path.normpath(record.file) for dataset in train for record in dataset.records}
    return DataSummary(
        train=tuple(summarize(dataset, inspect_images=inspect_images) for dataset in train),
        test=summarize(test, inspect_images=inspect_images),
        filter_empty=filter_empty,
        shared=tuple(sorted(scored & trained)),
    )


def cap_notes(file: os.PathLike[str] | str, most_instances: int, detections: int) -> Iterator[Note]:
    """That AP cannot be 100: an image of a test set has more instances than are kept and counted.

    Args:
        most_instances: of its fullest image.
        detections: TEST.DETECTIONS_PER_IMAGE, of all categories together.
    """
    if most_instances > detections:
        yield Note(
            "data/instances",
            f"{file}: an image has {most_instances} instances, but TEST.DETECTIONS_PER_IMAGE is {detections}: so many "
            "are kept of an image and counted (COCO's maxDets), which bounds AP",
            "",
            f"Raise it to {most_instances} or more",
        )


def _added(counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*counts, strict=True)))


def _some(values: Sequence[str], limit: int = SHOWN) -> str:
    return ", ".join(first_of(values, limit))
