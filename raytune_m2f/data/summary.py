"""What was read: the numbers of every data set before anything trains, and what in them cannot be meant.

`lines` are for the log, `warnings` for the user's eyes, `problems` forbid to go on.

What an experiment trains on and is scored by, in numbers: the summaries of its files together.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raytune_m2f.data.agreement import Agreement, masks_and_boxes
from raytune_m2f.data.categories import Categories
from raytune_m2f.data.images import Headers, look_at
from raytune_m2f.data.records import CocoDataset, without_collection
from raytune_m2f.errors import DatasetError
from raytune_m2f.model import UNKNOWN

SHOWN = 12
HALF = 0.5


@dataclass(frozen=True)
class Summary:
    """One annotation file in numbers. Instances are annotations that are no crowds.

    Attributes:
        name, file: of the data set.
        categories: what labels mean.
        images: all that the file names.
        with_instances: images with an instance; without filter the others are trained on, too, as background.
        per_category: name of every category to its number of instances and of crowds.
        most_instances: of the fullest image.
        labels: for each head, how many instances have a label and how many have none.
        per_class: for each head, how many instances are of which class.
        without_polygon: annotations left out, for they have no polygon of three points.
        unnamed_files: images in the folder that the file does not name.
        repeated: files that more than one image names.
        agreement: of masks and boxes.
        unlabelled, remarks: of `CocoDataset`.
        headers: what the image files say, if they were looked at.
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
    remarks: tuple[str, ...]
    headers: Headers | None = None

    @property
    def instances(self) -> int:
        return sum(instances for instances, _ in self.per_category.values())

    @property
    def crowds(self) -> int:
        return sum(crowds for _, crowds in self.per_category.values())

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint or a study remembers of it."""
        return {"images": self.images, "instances": self.instances, "crowds": self.crowds}

    def lines(self) -> Iterator[str]:
        """The numbers, in words."""
        left_out = [
            f"{count} {what}"
            for count, what in (
                (self.images - self.with_instances, "images without an instance"),
                (self.crowds, "crowds"),
                (self.without_polygon, "annotations without a valid polygon"),
            )
            if count
        ]
        yield (
            f"{self.name} ({self.file}): {self.images} images, {self.instances} instances, "
            f"{self.most_instances} in an image at most" + (f"; besides {', '.join(left_out)}" if left_out else "")
        )
        if self.instances:
            yield "instances of " + some([f"{name} {count}" for name, (count, _) in self._by_count if count], SHOWN)
        if absent := [name for name, (count, _) in self.per_category.items() if not count]:
            yield f"no instance of {len(absent)} of the {len(self.categories)} categories: {some(absent, SHOWN)}"
        for head, (known, unknown) in self.labels.items():
            classes = [f"{name} {count}" for name, count in self.per_class[head].items()]
            yield f"{head}: {known} labels known ({some(classes, SHOWN)}), {unknown} unknown"
        if self.agreement.compared:
            agreeing = self.agreement.compared - self.agreement.differing
            yield f"masks and boxes agree in {agreeing} of {self.agreement.compared} annotations"
        if self.headers is not None:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.headers.kinds.items())
            yield f"images, {self.headers.looked} of {self.images} looked at: {kinds}"
        if self.unnamed_files:
            yield f"{self.unnamed_files} further images in the folder, which the file does not name"

    @property
    def _by_count(self) -> list[tuple[str, tuple[int, int]]]:
        return sorted(self.per_category.items(), key=lambda item: -item[1][0])

    def warnings(self) -> Iterator[str]:
        """What may be meant, but is worth a look."""
        for text in (*self._crowd_warnings(), *self._mask_warnings(), *self.remarks):
            yield f"{self.file}: {text}"
        if self.without_polygon:
            yield f"{self.file}: left out {self.without_polygon} annotations without a valid polygon (of three points)"
        if self.headers is not None and self.headers.pages:
            yield (
                f"{self.file}: {self.headers.pages} of {self.headers.looked} images that were looked at have several "
                "pages, of which the first is used"
            )
        if self.repeated:
            yield f"{self.file}: {len(self.repeated)} files are named by several images: {some(self.repeated, 3)}"

    def _crowd_warnings(self) -> Iterator[str]:
        only = [f"{name} ({crowds})" for name, (count, crowds) in self.per_category.items() if crowds and not count]
        advice = (
            "Crowds are neither trained on nor counted. If they are single objects (some tools set iscrowd 1 on every "
            "mask that is run lengths), set iscrowd to 0"
        )
        if only:
            yield f"all annotations of {some(only, SHOWN)} are crowds (iscrowd 1). {advice}"
        elif self.crowds >= HALF * (self.crowds + self.instances) and self.crowds:
            yield f"{self.crowds} of {self.crowds + self.instances} annotations are crowds (iscrowd 1). {advice}"

    def _mask_warnings(self) -> Iterator[str]:
        agreement = self.agreement
        if agreement.differing and not agreement.wrong:
            yield (
                f"{agreement.differing} of {agreement.compared} masks lie elsewhere than their own bbox "
                f"[x, y, width, height]: {'; '.join(agreement.examples)}. The masks are what is trained on"
            )
        if agreement.areas_differing:
            yield (
                f"{agreement.areas_differing} of {agreement.compared} areas cannot be those of their masks; segm/APs, "
                "APm and APl go by the area. Leave the field out to have it counted"
            )
        if agreement.without_pixel:
            yield f"{agreement.without_pixel} masks have no pixel: nobody can find them"

    def problems(self) -> Iterator[str]:
        """What cannot be meant, whatever the file is for."""
        agreement = self.agreement
        if self.headers is not None and self.headers.problems:
            found = self.headers.problems
            listed = "".join(f"\n  {text}" for text in found[:SHOWN])
            yield f"{self.file}: of {self.headers.looked} images looked at, {len(found)} are of no use:{listed}"
        if not agreement.wrong:
            return
        what = f"{agreement.differing} of {agreement.compared} masks lie elsewhere than their own bbox"
        if not agreement.differing:
            what = "the masks and their boxes do not go together"
        examples = "".join(f"\n  {example}" for example in agreement.examples)
        reading = f"It seems that {agreement.reading}." if agreement.reading else "Correct the file."
        yield f"{self.file}: {what} [x, y, width, height].{examples}\n  {reading}"

    def require_something_to_find(self) -> None:
        """Raises DatasetError if there is no instance that a prediction could meet."""
        if not self.instances:
            raise DatasetError(f"nothing to find in {self.file}: {self.why_nothing()}")

    def why_nothing(self) -> str:
        """Why there is no instance, and what to do."""
        if self.crowds:
            return (
                f"all {self.crowds} annotations are crowds (iscrowd 1), which are not counted. Set iscrowd to 0 on "
                "single objects, or give a file with instances."
            )
        left_out = f" ({self.without_polygon} have no polygon of three points)" if self.without_polygon else ""
        return f"{self.images} images, but no annotation with a mask{left_out}. Give a file with instances."

    def require_sense(self) -> None:
        """Raises DatasetError with what cannot be meant."""
        if found := list(self.problems()):
            raise DatasetError("\n".join(found))


@without_collection()
def summarize(dataset: CocoDataset, *, look: bool = False) -> Summary:
    """The numbers of a data set; `look` at some of its image files, too."""
    names, heads = dataset.categories.names, dataset.categories.subcategories
    annotations = [a for record in dataset.records for a in record.annotations]
    regular = [a for a in annotations if not a.iscrowd]
    counts = Counter(a.label for a in regular), Counter(a.label for a in annotations if a.iscrowd)
    of_class = {head: Counter(a.sublabels[head] for a in regular) for head in heads}
    per_image = [len(record.instances) for record in dataset.records]
    files = Counter(os.fspath(record.file) for record in dataset.records)
    return Summary(
        name=dataset.name,
        file=str(dataset.annotations_file),
        categories=dataset.categories,
        images=len(dataset.records),
        with_instances=sum(count > 0 for count in per_image),
        per_category={name: (counts[0][label], counts[1][label]) for label, name in enumerate(names)},
        most_instances=max(per_image, default=0),
        labels={head: (len(regular) - count[UNKNOWN], count[UNKNOWN]) for head, count in of_class.items()},
        per_class={head: {name: of_class[head][i] for i, name in enumerate(heads[head])} for head in heads},
        without_polygon=dataset.without_polygon,
        unnamed_files=dataset.unnamed_files,
        repeated=tuple(file for file, count in files.items() if count > 1),
        agreement=masks_and_boxes(dataset),
        unlabelled=dataset.unlabelled,
        remarks=dataset.remarks,
        headers=look_at(dataset.records) if look else None,
    )


def some(values: Sequence[str], limit: int) -> str:
    """The first of the values, and how many more there are."""
    return ", ".join(values[:limit]) + (f", ... ({len(values) - limit} more)" if len(values) > limit else "")


@dataclass(frozen=True)
class DataSummary:
    """What an experiment trains on, file by file, and is scored by.

    Attributes:
        train: each training set.
        test: the test set.
        filter_empty: whether images without instances are left out of training.
        shared: image files that are trained on and scored by.
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
        return self.test.heads

    @property
    def most_instances(self) -> int:
        """Of the fullest training image."""
        return max(part.most_instances for part in self.train)

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

    def warnings(self) -> list[str]:
        """What may be meant, but is worth a look."""
        found = [text for part in (*self.train, self.test) for text in part.warnings()]
        if self.shared:
            found.append(
                f"{len(self.shared)} images are both in the training and in the test set, whose score then says little "
                f"of other images: {some(self.shared, 3)}"
            )
        for part in self.train:
            found += [f"{part.file}: {text}" for text in part.unlabelled.values()]
        return list(dict.fromkeys(found))  # one file may be both trained on and scored by

    def require_sense(self) -> None:
        """Raises DatasetError if something cannot be meant, or there is nothing to learn or to find."""
        for part in (*self.train, self.test):
            part.require_sense()
        if not self.instances:
            raise DatasetError("nothing to learn: " + "; ".join(f"{p.file}: {p.why_nothing()}" for p in self.train))
        self.test.require_something_to_find()
        for head in self.heads:
            for parts in (self.train, (self.test,)):
                if all(part.labels[head][0] == 0 for part in parts):
                    raise DatasetError("\n".join(_unlabelled(part, head) for part in parts))


def summarize_all(
    train: Sequence[CocoDataset], test: CocoDataset, *, filter_empty: bool, look: bool = False
) -> DataSummary:
    """The numbers of an experiment's data sets; see `summarize`."""
    scored = {os.path.normpath(record.file) for record in test.records}
    trained = {os.path.normpath(record.file) for dataset in train for record in dataset.records}
    return DataSummary(
        train=tuple(summarize(dataset, look=look) for dataset in train),
        test=summarize(test, look=look),
        filter_empty=filter_empty,
        shared=tuple(sorted(scored & trained)),
    )


def _unlabelled(part: Summary, head: str) -> str:
    crowds = f"no instance has a label of the subcategory {head!r}: only crowds have, which are not counted."
    return f"{part.file}: {part.unlabelled.get(head, crowds)}"
