"""Which files are images, and what a file that is made of each is called."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raytune_m2f.errors import InputError
from raytune_m2f.files import shortened

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths`, those of folders included, each once.

    Raises:
        InputError: a path does not exist, or there is no image at all.
    """
    found = list({os.path.abspath(file): file for file in _expand(paths)}.values())
    if not found:
        raise InputError(f"no image to predict: give files or folders with {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _expand(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            yield path
        else:
            raise InputError(f"there is no image {path}")


def common_folder(files: Sequence[Path]) -> Path:
    """The folder that all files are in, some perhaps below it."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """`<name>.png` for each file; where two would be the same, with more of the file's path or name in it.

    On some systems Ä and its two-character form, or a and A, name the same file: they count as the same here.
    """
    tried = dict.fromkeys(files, 0)
    while True:
        names = {
            file: shortened(_name(file, number, tried[file]), ".png") for number, file in enumerate(files, start=1)
        }
        counts = Counter(_folded(name) for name in names.values())
        repeated = [file for file, name in names.items() if counts[_folded(name)] > 1]
        if not repeated:
            return names
        for file in repeated:
            tried[file] += 1


def _name(file: Path, number: int, attempt: int) -> str:
    folders = file.absolute().parts[1:-1]
    choices = (
        file.stem,
        "_".join((*folders[-1:], file.stem)),
        "_".join((*folders[-2:], file.stem)),
        "_".join((*folders[-1:], file.name)),
    )
    return choices[attempt] if attempt < len(choices) else f"{number:06d}_{file.stem}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
