"""Which images are meant, their pages, the names of their pictures; what must not be written over."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raytune_m2f.data.images import IMAGE_SUFFIXES, pages_of
from raytune_m2f.errors import DatasetError, InputError
from raytune_m2f.storage.files import require_free, shortened


@dataclass(frozen=True)
class Page:
    """An image of a file.

    Attributes:
        number: of a file with several pages or frames which one, from 1 on; else None.
        bytes: of its pixels as RGB, as far as the header says.
    """

    file: Path
    number: int | None = None
    bytes: int = 0

    @property
    def stem(self) -> str:
        """The file's name without its ending, with the number of the page."""
        return self.file.stem if self.number is None else f"{self.file.stem}_page{self.number}"

    @property
    def name(self) -> str:
        """The file's name, with the number of the page."""
        return self.file.name if self.number is None else f"{self.file.name}_page{self.number}"


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths`, those of folders included, each once.

    A path that does not exist and has *, ? or [ in it is a pattern, as a shell's; ** stands for any folders.

    Raises:
        InputError: a path does not exist, nothing fits a pattern, or there is no image at all.
    """
    found = list({os.path.abspath(file): file for file in _expand(paths)}.values())
    if not found:
        raise InputError(
            f"no image to predict: give files, patterns or folders with {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def _expand(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            yield path
        elif glob.has_magic(str(path)):
            matching = sorted(glob.glob(str(path), recursive=True))
            if not matching:
                raise InputError(f"there is no image {path}, nor does any file fit it as a pattern")
            yield from (file for file in map(Path, matching) if not file.is_dir())
        else:
            raise InputError(f"there is no image {path}")


def find_pages(file: Path) -> list[Page]:
    """Every page of an image file; of one that cannot be read one page, whose reading will say why."""
    try:
        count, pixels = pages_of(file)
    except DatasetError:
        return [Page(file)]
    return [Page(file, number if count > 1 else None, 3 * pixels) for number in range(1, count + 1)]


def common_folder(pages: Sequence[Page]) -> Path:
    """The innermost folder that contains all files."""
    return Path(os.path.commonpath([page.file.absolute().parent for page in pages]))


def picture_names(pages: Sequence[Page]) -> dict[Page, str]:
    """`<name>.png` for each image; names that would collide get more of the file's path or name.

    On some systems Ä and its two-character form, or a and A, name the same file: they count as the same here.
    """
    attempts = dict.fromkeys(pages, 0)
    while True:
        names = {
            page: shortened(_name(page, number, attempts[page]), ".png") for number, page in enumerate(pages, start=1)
        }
        folded = {page: unicodedata.normalize("NFKC", name).casefold() for page, name in names.items()}
        counts = Counter(folded.values())
        repeated = [page for page, name in folded.items() if counts[name] > 1]
        if not repeated:
            return names
        for page in repeated:
            attempts[page] += 1


def _name(page: Page, number: int, attempt: int) -> str:
    """The name to try at an attempt: the file's own, then with folders, at last with the image's number."""
    folders = page.file.absolute().parts[1:-1]
    choices = (
        page.stem,
        "_".join((*folders[-1:], page.stem)),
        "_".join((*folders[-2:], page.stem)),
        "_".join((*folders[-1:], page.name)),
    )
    return choices[attempt] if attempt < len(choices) else f"{number:06d}_{page.stem}"


def require_output(output: Path, given: Sequence[Path], inputs: Iterable[Path], names: Iterable[str]) -> None:
    """Refuse to overwrite an image, or any other file that is not ours; before the first image is predicted.

    Args:
        given: the paths that the user gave.
        inputs: the image files.
        names: of the files to write in `output`.

    Raises:
        InputError: naming what would be written over.
    """
    for folder in given:
        if folder.is_dir() and output.is_dir() and os.path.samefile(folder, output):
            raise InputError(f"--output {output} is the folder of the images: give another one for the pictures.")
    taken = {_identity(file): file for file in inputs if file.exists()}
    for path in (output / name for name in names):
        if path.exists() and (file := taken.get(_identity(path))) is not None:
            raise InputError(
                f"--output {output}: the picture {path} would be written over the image {file}: give another directory."
            )
        require_free(path, f"--output {output}")


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino
