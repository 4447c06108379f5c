"""Data, as the image files say it: sizes, EXIF rotation, files that cannot be read, duplicates across the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raytune_m2f.data.images import inspect_headers
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.labels import noted
from raytune_m2f.doctor.pixels import Look, look_at, same_pictures
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import first_of

ALIKE = 0.96
"""Correlation of two thumbnails of the same picture. Of 900 pictures of seven data sets no two have more than 0.94;
the same ones re-encoded at a quality of 40 to 90 and resized to 0.3 to 2 have 0.975 and more."""
SHOWN = 5
UPRIGHT = (
    "Correct the size in the annotation file. If the annotations were drawn on the image as it is stored, without its "
    "EXIF rotation: remove the tag (exiftool -Orientation= FILE), and the size fits"
)


def _files(subject: Subject) -> Iterator[Finding]:
    remedy = f"Replace these files, or take their images out of the annotation file. {UPRIGHT}."
    found = noted(FILES, subject, remedy)
    told = []
    for role, dataset in subject.parts:
        headers = inspect_headers(dataset.records)
        told.append(f"{role} {headers.inspected} of {len(dataset)} inspected, {', '.join(headers.kinds) or 'none'}")
        if headers.turned:
            told[-1] += f", {headers.turned} turned by their EXIF tag, as they are read"
        if headers.problems and not found:  # of an engine that does not inspect them itself
            what = f"{role}: of {headers.inspected} images inspected, {len(headers.problems)} are of no use:"
            seen = "\n  ".join([what, *first_of(headers.problems, SHOWN)])
            found.append(FILES.problem(seen, "Training or evaluation would end at the first of them", remedy))
    yield from found or [FILES.ok(f"images: {'; '.join(told) or 'nothing to look at'}")]


def _looks(subject: Subject) -> dict[str, list[Look]]:
    """Of training and test set, the images that are decoded."""
    return {role: look_at(dataset) for role, dataset in subject.parts}


def _pixels(subject: Subject) -> Iterator[Finding]:
    found, told = [], []
    for role, dataset in subject.parts:
        looks = subject.once(_looks)[role]
        told.append(f"{role} {len(looks)} of {len(dataset)}")
        if broken := [look.problem for look in looks if look.problem]:
            found.append(
                PIXELS.problem(
                    "\n  ".join(
                        [
                            f"{role}: {len(broken)} of {len(looks)} images that were decoded cannot be read:",
                            *first_of(broken, SHOWN),
                        ]
                    ),
                    "Training or evaluation ends at the first of them",
                    "Replace these files, or take their images out of the annotation file.",
                    count=len(broken),
                )
            )
        if flat := [look for look in looks if look.one_colour]:
            labelled = sum(bool(look.record.instances) for look in flat)
            found.append(
                PIXELS.warning(
                    f"{role}: {len(flat)} of {len(looks)} images that were decoded are of one colour, {labelled} of "
                    f"them with instances: {_names(flat)}",
                    "There is nothing to see in them",
                    "Replace these files, or take their images out of the annotation file.",
                    count=len(flat),
                )
            )
    yield from found or [PIXELS.ok(f"decoded: {', '.join(told) or 'nothing'}; all can be read")]


def _duplicates(subject: Subject) -> Iterator[Finding]:
    found = noted(DUPLICATES, subject)
    looks = subject.once(_looks) if subject.parts else {"train": [], "test": []}
    pairs = same_pictures(looks["train"], looks["test"], ALIKE)
    sizes = [f"{len(looks[role])} of {len(dataset)} {role} images" for role, dataset in subject.parts]
    compared = " with ".join(sizes) or "nothing to look at"
    if pairs:
        equal = sum(bytes_agree for _, _, bytes_agree in pairs)
        kinds = {"byte for byte": equal, "by their look": len(pairs) - equal}
        kind = ", ".join(f"{count} {how}" for how, count in kinds.items() if count)
        examples = [f"{_short(test)} is {_short(train)}" for train, test, _ in pairs[:SHOWN]]
        found.append(
            DUPLICATES.warning(
                f"{len(pairs)} test images are also training images under another name ({kind}; compared: {compared}): "
                f"{', '.join(examples)}",
                "The score then says little of other images",
                "Take them out of one of the two sets; keep the frames of a video, or the cuts of an image, together.",
                pairs=[[str(train.record.file), str(test.record.file)] for train, test, _ in pairs[:100]],
            )
        )
    yield from found or [DUPLICATES.ok(f"no picture is in both sets; compared: {compared}")]


def _short(look: Look) -> str:
    return "/".join(look.record.file.parts[-2:])


def _names(looks: Sequence[Look]) -> str:
    return ", ".join(first_of([look.record.file.name for look in looks], SHOWN))


FILES = Check("data/files", "are the image files there, and of the size that the annotations say", _files, quick=True)
PIXELS = Check("data/pixels", "can the images be read to the end", _pixels)
DUPLICATES = Check("data/duplicates", "is a test image also a training image", _duplicates)

CHECKS: tuple[Check, ...] = (FILES, PIXELS, DUPLICATES)
