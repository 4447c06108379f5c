"""What an experiment trains on and is scored by, in numbers: the summaries of its files together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raytune_m2f.data.records import CocoDataset
from raytune_m2f.data.summary import Summary, some, summarize
from raytune_m2f.errors import DatasetError


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
