"""Find image files by what an export calls them: one way for all dialects.

Only files below the given folders are ever found: a name that leads elsewhere ("../..", an absolute path, a drive)
finds nothing there, but perhaps a file of its last part here.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from raytune_m2f.data.images import IMAGE_SUFFIXES
from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import Draft, part_of
from raytune_m2f.project.dialects.source import walk

Parts = tuple[str, ...]
"""Of a relative path, folders first."""

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?P<name>.+)", re.IGNORECASE)  # Label Studio sets this before a file's name
_ROBOFLOW = re.compile(r"(?P<stem>.+)_(?P<suffix>jpe?g|png|bmp|webp|tiff?)\.rf\.\w{8,}\.\w+", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


class ImageFiles:
    """The files below folders, by path and by name.

    Args:
        folders: where images are; each is searched with all folders in it.
        beside: further folders, which are searched without the folders in them.

    Raises:
        DatasetError: one of `folders` is no folder.
    """

    def __init__(self, folders: Sequence[Path], beside: Sequence[Path] = ()) -> None:
        self.folders = tuple(Path(os.path.abspath(folder)) for folder in folders)
        for folder in self.folders:
            if not os.path.isdir(folder):
                raise DatasetError(f"image folder {folder} does not exist or is not a folder")
        self.paths: dict[str, Path] = {}
        self._named: dict[str, list[Path]] = {}  # by the name, and by the folder's name and the name
        self._stems: dict[str, list[Path]] = {}
        for folder in self.folders:
            for path in walk(folder):
                self._add(path)
        for folder in dict.fromkeys(Path(os.path.abspath(folder)) for folder in beside):
            for name in sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else ():
                if os.path.isfile(folder / name):
                    self._add(folder / name)

    def find(self, draft: Draft, prefer: Path | None = None) -> list[Path]:
        """The file of a draft; none if there is none, several if nothing in its name tells them apart.

        Args:
            prefer: one of the folders; the file is looked for in it first.
        """
        for name in (draft.name, *draft.aliases):
            if found := self._find(name, draft, prefer):
                return found
        return []

    def images(self) -> list[Path]:
        """The files whose suffix is that of an image."""
        return [path for path in self.paths.values() if path.suffix.lower() in IMAGE_SUFFIXES]

    def described(self) -> str:
        """The folders, with the number of their images and one of them, for a message."""
        images = self.images()
        shown = ", ".join(map(str, self.folders)) or "the folder of the annotations"
        return f"{shown} ({len(images)} image files" + (f", such as {images[0].name})" if images else ")")

    def _add(self, path: Path) -> None:
        if str(path) in self.paths:
            return
        self.paths[str(path)] = path
        for key in (_folded(path.name), _folded(f"{path.parent.name}/{path.name}")):
            self._named.setdefault(key, []).append(path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            self._stems.setdefault(_folded(path.stem), []).append(path)

    def _is_elsewhere(self, path: Path, parts: Sequence[str]) -> bool:
        """Whether a file lies in a folder of another part than its name says: val/1.jpg is not train/1.jpg."""
        given = [path.relative_to(folder.parent).parts for folder in self.folders if folder in path.parents]
        wanted, there = _part(parts), _part(min(given, key=len)) if given else None
        return wanted is not None and there is not None and wanted != there

    def _find(self, name: str, draft: Draft, prefer: Path | None) -> list[Path]:
        spelt = list(spellings(name))
        for roots in ([prefer], [draft.base], self.folders):
            for parts in spelt if not draft.any_suffix else ():
                places = [os.path.normpath(os.path.join(root, *parts)) for root in roots if root is not None]
                if found := [self.paths[place] for place in dict.fromkeys(places) if place in self.paths]:
                    return found
        for parts in spelt:
            known = [part for part in parts if part not in ("..", "/") and not _DRIVE.fullmatch(part)]
            if not known:
                continue
            keys = [] if draft.any_suffix else [_folded("/".join(known[-2:])), _folded(known[-1])]
            called = next((paths for key in keys if (paths := self._named.get(key))), [])
            stem = known[-1] if draft.any_suffix else PurePosixPath(known[-1]).stem
            alike = [
                path for path in called or self._stems.get(_folded(stem), []) if not self._is_elsewhere(path, known)
            ]
            if found := _likest(alike, known, prefer):
                return found
        return []


def spellings(name: str) -> Iterator[Parts]:
    """What a name may mean, the likeliest first: as it stands, as an address, percent-encoded, with a tool's prefix."""
    seen = set()
    for text in _texts(name):
        parts = tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
        parts = ("/", *parts) if text.startswith(("/", "\\")) else parts
        for spelt in (parts, _without_prefix(parts)):
            if spelt and spelt not in seen:
                seen.add(spelt)
                yield spelt


def original_name(name: str) -> str:
    """The name of the picture that Roboflow made an image of: "a_jpg.rf.0123....jpg" of "a.jpg"; "" if it made none."""
    found = _ROBOFLOW.fullmatch(PurePosixPath(name.replace("\\", "/")).name)
    return f"{found['stem']}.{found['suffix']}" if found else ""


def _texts(name: str) -> Iterator[str]:
    yield name
    try:
        address = urlsplit(name)
        query = parse_qs(address.query).get("d", [])
    except ValueError:  # "http://[x"
        return
    yield from query[:1]
    if address.scheme or address.query:
        yield unquote(address.path)
    if "%" in name:
        yield unquote(name)


def _without_prefix(parts: Parts) -> Parts:
    found = _UPLOADED.fullmatch(parts[-1]) if parts else None
    return (*parts[:-1], found["name"]) if found else parts


def _likest(found: Sequence[Path], parts: Sequence[str], prefer: Path | None) -> list[Path]:
    """Of the files of one name those whose folders agree most with `parts`, counted from the end."""
    if len(found) > 1 and prefer is not None and (inside := [path for path in found if prefer in path.parents]):
        found = inside
    wanted = [_folded(part) for part in reversed(parts[:-1])]

    def agreeing(path: Path) -> int:
        folders = [_folded(part) for part in reversed(path.parts[:-1])]
        return next((n for n, (a, b) in enumerate(zip(folders, wanted, strict=False)) if a != b), len(wanted))

    best = max(map(agreeing, found), default=0)
    return [path for path in found if agreeing(path) == best]


def _part(parts: Sequence[str]) -> str | None:
    """The part that the last folder of a path speaks of which speaks of any."""
    return next((part for folder in reversed(parts[:-1]) if (part := part_of(Path(folder, "-")))), None)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
