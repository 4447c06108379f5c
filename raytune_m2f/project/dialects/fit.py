"""Drafts on their image files: each image is found, its header read, and its objects put into its pixels.

Sizes may contradict: an export may speak of the image at another size, or before its EXIF rotation. What can be told
from the export itself is mended and noted; an image of which it cannot be told is left out and noted, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from raytune_m2f.data.images import upright_size
from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import Draft, Notes, Reading, part_of
from raytune_m2f.project.dialects.files import ImageFiles
from raytune_m2f.project.dialects.outlines import TURNS, Shape, bounds, is_empty, scaled, turned
from raytune_m2f.project.export import Item, Picture

THREADS = 8  # read headers; they wait for the disk
ALIKE = 0.01  # relative difference of two scales that are taken for one: sizes are rounded
BESIDE = 1.02  # a coordinate up to here, in lengths of its image, is drawn carelessly; beyond it, in another frame
SOME = 0.1  # share of the images whose objects must reach beyond the size that the export says
MOST = 0.8  # share of the outlines that must lie in 0 to 1 to be taken for shares
ROUGHLY = 0.01  # tolerance around [0, 1]


class Size(NamedTuple):
    """Of an image file: width and height after its EXIF rotation, and that orientation."""

    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class _Found:
    draft: Draft
    path: Path
    size: Size

    @property
    def is_swapped(self) -> bool:
        """The export exchanges width and height."""
        given, size = self.draft.size, self.size
        if given is None or self.draft.shares or size.width == size.height:
            return False
        return not _is_near(given, size[:2]) and _is_near(given, (size.height, size.width))

    @property
    def scale(self) -> tuple[float, float]:
        """From the export's coordinates to pixels, in x and y."""
        if self.draft.size is None:
            return 1.0, 1.0
        return self.size.width / self.draft.size[0], self.size.height / self.draft.size[1]


def _is_near(given: tuple[float, float], size: tuple[int, int]) -> bool:
    return abs(given[0] - size[0]) <= 1 and abs(given[1] - size[1]) <= 1


def pictures(reading: Reading, files: ImageFiles, prefer: Path | None, part: str | None) -> Iterator[Picture]:
    """The pictures of a reading, in its order.

    Args:
        reading: one annotation file.
        files: where image files are.
        prefer: the folder of `files` where its images are looked for first.
        part: "train", "val" or "test", if it is known which this is; a folder of that name is the likelier.

    Raises:
        DatasetError: none of its image files was found, or none can be used, or several have the same name.
    """
    found = _readable(_located(reading, files, prefer, part), reading)
    frame = _swapped_frame(found)
    is_size_wrong = _sizes_are_wrong(found)
    in_shares = _are_shares(found)
    used = 0
    for entry in found:
        items = _items(entry, frame, is_size_wrong, in_shares, reading.notes)
        if items is not None:
            used += 1
            draft = entry.draft
            yield Picture(entry.path, entry.size.width, entry.size.height, tuple(items), draft.fields, draft.part)
    if not used:
        raise DatasetError(
            f"{reading.files[0]}: none of its {len(reading.drafts)} images can be used:\n  "
            + "\n  ".join(reading.notes.lines())
        )


def _located(reading: Reading, files: ImageFiles, prefer: Path | None, part: str | None) -> list[tuple[Draft, Path]]:
    found = _told_apart([(draft, files.find(draft, prefer)) for draft in reading.drafts], reading, part)
    names: dict[Path, set[str]] = {}
    for draft, path in found:
        if path is not None:
            names.setdefault(path, set()).add(draft.name)
    kept, missing = [], []
    for draft, path in found:
        if path is None or (len(names[path]) > 1 and not _is_called(path, draft, names[path])):
            missing.append(draft.name)
        else:
            kept.append((draft, path))
    if not found:
        raise DatasetError(f"{reading.files[0]} lists no image" + "".join(f"\n  {n}" for n in reading.notes.lines()))
    if not kept:
        raise DatasetError(
            f"{reading.files[0]}: not one of its {len(found)} image files was found"
            + (f", such as {missing[0]!r}" if missing else "")
            + f". Looked in {files.described()}, by path and by name. Give the folder of these images as --images."
            + reading.advice
        )
    for name in missing:
        reading.notes.add("image files that were not found; their objects are left out", repr(name))
    for path, number in Counter(path for _, path in kept).items():
        if number > 1:
            reading.notes.add("image files that stand for several images of the export", path.name)
    return kept


def _told_apart(
    found: Sequence[tuple[Draft, list[Path]]], reading: Reading, part: str | None
) -> list[tuple[Draft, Path | None]]:
    """One file for each draft: of several, that in a folder named after its part, else where most of its others are.

    Raises:
        DatasetError: several remain.
    """
    if all(len(paths) < 2 for _, paths in found):
        return [(draft, paths[0] if paths else None) for draft, paths in found]
    have = Counter(_root(path, draft) for draft, paths in found for path in paths)
    chosen: list[tuple[Draft, Path | None]] = []
    for draft, paths in found:
        wanted = draft.part or part
        likely = [(wanted is not None and wanted in _parts(path), have[_root(path, draft)]) for path in paths]
        best = [path for path, about in zip(paths, likely, strict=True) if about == max(likely)]
        if len(best) > 1:
            raise DatasetError(
                f"{reading.files[0]}: image {draft.name!r} may be {' or '.join(map(str, best[:2]))}: nothing tells "
                "which. Give the folder of each annotation file's images as --images, in the order of --annotations"
            )
        chosen.append((draft, best[0] if best else None))
    return chosen


def _root(path: Path, draft: Draft) -> Path:
    """The folder that a draft's name would be relative to, if it led to this file."""
    folders = path.parts[:-1]
    for part in reversed(draft.name.replace("\\", "/").split("/")[:-1]):
        if not folders or folders[-1].casefold() != part.casefold():
            break
        folders = folders[:-1]
    return Path(*folders)


def _parts(path: Path) -> set[str | None]:
    """The parts that the folders of a file are named after."""
    return {part_of(Path(folder, "-")) for folder in path.parts[:-1]}


def _is_called(path: Path, draft: Draft, names: set[str]) -> bool:
    """Whether a file that several names led to is called as this draft says, and as no other does."""
    last = [PurePosixPath(name.replace("\\", "/")).name for name in names]
    return last.count(path.name) == 1 and PurePosixPath(draft.name.replace("\\", "/")).name == path.name


def _readable(located: Sequence[tuple[Draft, Path]], reading: Reading) -> list[_Found]:
    paths = list(dict.fromkeys(path for _, path in located))
    with ThreadPoolExecutor(THREADS) as pool:
        sizes: Mapping[Path, Size | str] = dict(zip(paths, pool.map(_size, paths), strict=True))
    found = []
    for draft, path in located:
        size = sizes[path]
        if isinstance(size, str):
            reading.notes.add("image files that cannot be read are left out, with their objects", size)
        else:
            found.append(_Found(draft, path, size))
    return found


def _size(path: Path) -> Size | str:
    try:
        return Size(*upright_size(path))
    except DatasetError as error:
        return str(error)


def _swapped_frame(found: Sequence[_Found]) -> str:
    """Which frame the objects of images with exchanged sides are drawn in: "upright", "stored", or "" if none can tell.

    All of them come from one tool, so one that fits only one of the frames tells it for all.
    """
    votes = set()
    for entry in found:
        if entry.is_swapped:
            for item in entry.draft.items:
                if item.segmentation is not None:
                    upright = _fits(item.segmentation, entry.size.width, entry.size.height)
                    stored = _fits(item.segmentation, entry.size.height, entry.size.width)
                    votes |= {"upright"} if upright and not stored else {"stored"} if stored and not upright else set()
    return votes.pop() if len(votes) == 1 else ""


def _sizes_are_wrong(found: Sequence[_Found]) -> bool:
    """Whether the objects of images of another size reach beyond the size that the export says.

    It is one tool: either its objects belong to images of that size, or it says a wrong size, perhaps one for all.
    """
    beyond = total = 0
    for entry in found:
        given = entry.draft.size
        if (
            given is not None
            and not entry.draft.shares
            and not entry.is_swapped
            and not _is_near(given, entry.size[:2])
        ):
            shapes = [item.segmentation for item in entry.draft.items if isinstance(item.segmentation, tuple)]
            total += bool(shapes)
            beyond += not all(_fits(shape, *given) for shape in shapes)
    return beyond > SOME * total


def _fits(shape: Shape, width: float, height: float) -> bool:
    if isinstance(shape, dict):
        return bool(shape["size"] == [height, width])
    _, _, right, bottom = bounds(shape)
    return right <= BESIDE * width and bottom <= BESIDE * height


def _are_shares(found: Sequence[_Found]) -> bool:
    """Whether the outlines are in 0 to 1, though the dialect's are in pixels."""
    small = total = 0
    for entry in found:
        if not entry.draft.shares and min(entry.size[:2]) > 2:
            shapes = [item.segmentation for item in entry.draft.items if isinstance(item.segmentation, tuple)]
            total += len(shapes)
            small += sum(_in_unit_square(shape) for shape in shapes)
    return bool(total) and small > MOST * total


def _in_unit_square(shape: Shape) -> bool:
    left, top, right, bottom = bounds(shape)
    return min(left, top) >= -ROUGHLY and max(right, bottom) <= 1 + ROUGHLY


def _items(entry: _Found, frame: str, is_size_wrong: bool, in_shares: bool, notes: Notes) -> list[Item] | None:
    """The objects in pixels of the file; None if the image cannot be used."""
    draft, size, orientation = entry.draft, (entry.size.width, entry.size.height), entry.size.orientation
    x, y = entry.scale
    turn = False
    if entry.is_swapped and draft.items:
        turn, x, y = frame == "stored" and orientation in TURNS, 1.0, 1.0
        if not turn and frame != "upright":
            notes.add(
                "images whose width and height are exchanged, by EXIF or in the export, are left out: whether their "
                "objects were drawn before or after it cannot be told. Correct width and height in the export",
                entry.path.name,
            )
            return None
        drawn = "before the rotation: they are rotated" if turn else "on the rotated image"
        notes.add(
            f"images whose width and height are exchanged in the export; the objects were drawn {drawn}",
            entry.path.name,
        )
    elif not draft.shares and not entry.is_swapped and draft.size is not None and draft.size != size:
        if not _is_one_scale(x, y, draft.size, size):
            notes.add(
                "images of other proportions than the export says are left out: they are not what was annotated",
                f"{entry.path.name} is {size[0]} x {size[1]}, the export says {draft.size[0]:g} x {draft.size[1]:g}",
            )
            return None
        if not is_size_wrong:
            notes.add("images of another size than the export says; the objects are scaled to it", entry.path.name)
        else:
            x = y = 1.0
            notes.add(
                "images whose size in the export is wrong, as objects reach beyond it; they are taken as they are",
                entry.path.name,
            )
    found = []
    for item in draft.items:
        if item.segmentation is None:
            found.append(item)
            continue
        shape = _fitted(item, (x, y), size, orientation if turn else 0, in_shares and not draft.shares, notes)
        if shape is not None and _is_inside(shape, size) and not is_empty(shape):
            found.append(replace(item, segmentation=shape))
        elif shape is not None:
            notes.add("objects without a pixel, or outside of their image, are left out", item.origin)
    return found


def _fitted(
    item: Item, scale: tuple[float, float], size: tuple[int, int], turn: int, in_shares: bool, notes: Notes
) -> Shape | None:
    shape = item.segmentation
    assert shape is not None
    if turn:
        shape = turned(shape, turn, size[1], size[0])
    if not isinstance(shape, dict):
        if in_shares and _in_unit_square(shape):
            notes.add("outlines in 0 to 1 instead of pixels are multiplied by width and height", item.origin)
            return scaled(shape, *size, size)
        return scaled(shape, *scale, size) if scale != (1.0, 1.0) else shape
    height, width = shape["size"]
    if (width, height) == size:
        return shape
    if not _is_one_scale(size[0] / width, size[1] / height, (width, height), size):
        notes.add("masks of other proportions than their image are left out", item.origin)
        return None
    notes.add("masks of another size than their image are scaled to it", item.origin)
    return scaled(shape, 1.0, 1.0, size)


def _is_one_scale(x: float, y: float, given: tuple[float, float], size: tuple[int, int]) -> bool:
    """Whether an image of `given` size, scaled alike in both directions, has `size`, up to rounding."""
    scale = (x * y) ** 0.5
    return abs(x / y - 1) <= ALIKE or all(abs(scale * a - b) <= 1 for a, b in zip(given, size, strict=True))


def _is_inside(shape: Shape, size: tuple[int, int]) -> bool:
    """Whether a shape lies in its image, in part at least, and no part of it far away (as data/masks.py allows)."""
    left, top, right, bottom = bounds(shape)
    limit = max(size)
    seen = right > 0 and bottom > 0 and left < size[0] and top < size[1]
    return seen and min(left, top) >= -limit and max(right, bottom) <= 2 * limit
