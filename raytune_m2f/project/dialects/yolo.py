"""YOLO segmentation (Ultralytics): a text file for each image, a line for each object, in shares of the image's sides.

Format: https://docs.ultralytics.com/datasets/segment. `images/train/a.jpg` has its objects in `labels/train/a.txt`. A
line is the number of the class and x, y of each corner. The parts of an object are joined there by a bridge of no
width, and holes cannot be said: both stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import PARTS, Draft, Notes, Reading
from raytune_m2f.project.dialects.files import ImageFiles
from raytune_m2f.project.dialects.outlines import polygon
from raytune_m2f.project.dialects.source import parse_yaml, read_bytes, walk
from raytune_m2f.project.dialects.values import number, word
from raytune_m2f.project.export import Item

LABELS, IMAGES = "labels", "images"
FURTHEST = 1.1  # a coordinate beyond is no share of a side
NO_LABELS = ("classes.txt", "obj.names", "predefined_classes.txt")


def is_yolo(content: object) -> bool:
    """Whether a YAML file describes such a data set."""
    return isinstance(content, dict) and isinstance(content.get("names"), list | dict)


def label_files(folder: Path) -> list[Path]:
    """The label files below a folder: those in a folder named `labels`, or all where there is none."""
    texts = [path for path in walk(folder) if path.suffix.lower() == ".txt" and path.name not in NO_LABELS]
    inside = [path for path in texts if LABELS in path.relative_to(folder).parts[:-1]]
    return inside or [path for path in texts if _looks_like_labels(path)]


def read_yolo(path: Path, files: ImageFiles) -> Reading:
    """Read a data set, given by its data.yaml or by a folder.

    Raises:
        DatasetError: there is no label file, or data.yaml cannot be read.
    """
    notes = Notes()
    root, description = Path(os.path.abspath(path)), {}
    if not os.path.isdir(path):
        description = parse_yaml(read_bytes(path), path)
        root = _root(path, description, files)
    names = _names(description, root)
    texts = label_files(root)
    if not texts:
        raise DatasetError(f"{path}: no label file (labels/.../*.txt) was found in {root}")
    parts = _Parts(description, root)
    drafts: list[Draft] = []
    classes: set[int] = set()
    for text in texts:
        items = tuple(_items(text, names, classes, notes))
        name = text.relative_to(root).with_suffix("").as_posix()
        place = os.path.normpath(root / _beside(name, IMAGES))
        drafts.append(
            Draft(_beside(name, IMAGES), items, (1, 1), shares=True, part=parts.of(place), base=root, any_suffix=True)
        )
    drafts += _backgrounds(texts, root, files, parts, notes)
    if not names:
        notes.add("classes have no names, as there is no data.yaml: they are numbered", number=len(classes))
    known = [names.get(index, f"class {index}") for index in sorted({*names, *classes})]
    return Reading("YOLO segmentation", (path,), tuple(dict.fromkeys(known)), drafts, notes)


def _root(path: Path, description: Mapping[str, Any], files: ImageFiles) -> Path:
    """The folder of the data set: data.yaml's, or its `path` if that is in it, or around the images that were given.

    Another `path` is from another machine, or leads where nothing of this data set is.
    """
    here = Path(os.path.abspath(path.parent))
    there = Path(os.path.normpath(here / word(description.get("path"))))
    near = {around for folder in files.folders for around in (folder, folder.parent, folder.parent.parent)}
    return there if (here in there.parents or there in near) and os.path.isdir(there) and label_files(there) else here


def _names(description: Mapping[str, Any], root: Path) -> dict[int, str]:
    names = description.get("names")
    if isinstance(names, list):
        return {index: word(name) or f"class {index}" for index, name in enumerate(names)}
    if isinstance(names, dict):
        return {
            int(index): word(name) or f"class {index}"
            for key, name in names.items()
            if (index := number(key)) is not None
        }
    listed = root / NO_LABELS[0]
    if os.path.isfile(listed):
        lines = read_bytes(listed).decode("utf-8", "replace").splitlines()
        return {index: word(line) or f"class {index}" for index, line in enumerate(lines)}
    return {}


def _items(path: Path, names: Mapping[int, str], classes: set[int], notes: Notes) -> Iterator[Item]:
    for place, line in enumerate(read_bytes(path).decode("utf-8", "replace").lstrip("\ufeff").splitlines(), start=1):
        origin = f"{path.name}, line {place}"
        values = [number(value) for value in line.split()]
        if not values:
            continue
        index, rest = values[0], [value for value in values[1:] if value is not None]
        if index is None or index < 0 or index != int(index) or len(rest) < len(values) - 1 or len(rest) < 4:
            notes.add("lines that cannot be read are left out", origin)
        elif names and int(index) not in names:
            notes.add(f"objects of a class that is not among the {len(names)} names are left out", origin)
        elif max(map(abs, rest)) > FURTHEST:
            notes.add("lines with coordinates beyond 0 to 1 are left out", origin)
        else:
            classes.add(int(index))
            category = names.get(int(index), f"class {int(index)}")
            if len(rest) % 2 and len(rest) > 6:  # a prediction's score comes last
                rest = rest[:-1]
            outline = polygon(rest) if len(rest) >= 6 else None
            yield Item(category, (outline,) if outline else None, False, {}, origin)


class _Parts:
    """Which part an image belongs to: as data.yaml says, else as its folder is named."""

    def __init__(self, description: Mapping[str, Any], root: Path) -> None:
        self._stems: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        for key, part in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test")):
            given = description.get(key)
            for value in given if isinstance(given, list) else [given]:
                if place := word(value):
                    self._read(place, part, root)

    def of(self, place: str) -> str | None:
        """The part of an image, by its path without the suffix."""
        if place in self._stems:
            return self._stems[place]
        for folder, part in self._folders.items():
            if place.startswith(folder + os.sep):
                return part
        return next((PARTS[name] for name in reversed(Path(place).parts[:-1]) if name in PARTS), None)

    def _read(self, place: str, part: str, root: Path) -> None:
        # Roboflow writes ../train/images for what is beside the file; Ultralytics takes the two dots for one.
        for given in (place, place[3:] if place.startswith("../") else ""):
            path = Path(os.path.normpath(root / given)) if given and "\0" not in given else root
            if root in path.parents and os.path.exists(path):
                break
        else:
            return
        if os.path.isdir(path):
            self._folders.setdefault(str(path), part)
        elif path.suffix.lower() == ".txt":
            for line in read_bytes(path).decode("utf-8", "replace").splitlines():
                if name := word(line):
                    self._stems.setdefault(os.path.splitext(os.path.normpath(root / name))[0], part)


def _backgrounds(texts: list[Path], root: Path, files: ImageFiles, parts: _Parts, notes: Notes) -> Iterator[Draft]:
    """Images without a label file, beside those that have one: they show no object."""
    labelled = {
        os.path.normpath(root / _beside(path.relative_to(root).with_suffix("").as_posix(), IMAGES)) for path in texts
    }
    folders = {os.path.dirname(place) for place in labelled}
    for path in files.images():
        place = str(path.with_suffix(""))
        if str(path.parent) in folders and place not in labelled:
            notes.add("images without a label file, which are taken as images without objects", path.name)
            yield Draft(str(path), (), (1, 1), shares=True, part=parts.of(place))


def _beside(name: str, instead: str) -> str:
    """A path with its last folder `labels` replaced."""
    parts = name.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part == LABELS]
    if places:
        parts[places[-1]] = instead
    return "/".join(parts)


def _looks_like_labels(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.readline(10_000).split()
    except OSError:
        return False
    return len(first) >= 5 and all(number(value.decode("ascii", "replace")) is not None for value in first)
