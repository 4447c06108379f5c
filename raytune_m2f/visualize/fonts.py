"""Text in any script: Pillow's own font, and for characters that it lacks the fonts of the system.

Pillow draws an empty box for a character that its font lacks. So each character is looked up first, by comparing what
the font draws for it with what it draws for a character that no font has.
"""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

Run = tuple[str, ImageFont.FreeTypeFont]
"""Text and its font."""

NO_CHARACTER = "\U0010fffe"
"""No font has it."""
_SHAPED = ((0x0590, 0x08FF), (0x0900, 0x109F), (0x1780, 0x17FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF))
"""Arabic, Hebrew, the scripts of India and south-east Asia: their letters have to be joined or put in order."""
_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "serif", "math", "emoji")
_ADVICE = (
    "Names that no font of this machine can draw are written as numbers. Install a font that has them (fonts-noto-cjk "
    "for Chinese, Japanese and Korean, fonts-noto-core for most others, fonts-symbola for emoji), or put its .ttf into "
    "~/.fonts."
)

log = logging.getLogger(__name__)


class Fonts:
    """Draws lines of text, each character in the first font that has it.

    Args:
        files: font files to try after Pillow's own font, in this order.
    """

    runs: Callable[[str, float], list[Run]]
    """A text at a size in pixels as it is drawn, in parts of one font each."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = ("", *files)
        self._file_of = cache(self._find_file)
        self.runs = cache(self._runs)
        self._warned: set[str] = set()

    def length(self, text: str, size: float) -> float:
        """Width of a text in pixels."""
        return sum(font.getlength(part) for part, font in self.runs(text, size))

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float, colour: object) -> None:
        """Draw a text whose left middle is `at`."""
        x, y = at
        for part, font in self.runs(text, size):
            draw.text((x, y), part, colour, font, anchor="lm")  # type: ignore[arg-type]  # any of Pillow's colours
            x += font.getlength(part)

    def missing(self, text: str) -> str:
        """The characters of a text that no font here can draw; empty if there is none."""
        return "".join(dict.fromkeys(c for c in _printable(text) if self._file_of(c) is None))

    def name_or_number(self, name: str, number: str) -> str:
        """The name, or if no font has its characters the number that stands for it; the log says so once."""
        if not self.missing(name):
            return name
        if not self._warned:
            log.warning(_ADVICE)
        if name not in self._warned:
            self._warned.add(name)
            log.warning("no font here can draw %r: it is %r in the pictures", name, number)
        return number

    def _runs(self, text: str, size: float) -> list[Run]:
        shown = _printable(text)
        one = next((file for file in self._files if all(_has(file, c) for c in shown)), None)  # one for all looks best
        files = [self._file_of(c) for c in shown] if one is None else [one] * len(shown)
        pairs = groupby(zip(shown, files, strict=True), key=lambda pair: pair[1])
        return [("".join(c for c, _ in part), load_font(file or "", size)) for file, part in pairs]

    def _find_file(self, character: str) -> str | None:
        """The first font that has the character, "" for Pillow's own; None if there is none."""
        if unicodedata.category(character) in ("Cs", "Co", "Cn"):
            return None  # half a character, or one without a meaning
        if any(first <= ord(character) <= last for first, last in _SHAPED) and not features.check("raqm"):
            return None  # it would be drawn letter by letter, from the wrong end
        return next((file for file in self._files if _has(file, character)), None)


@cache
def system_fonts() -> Fonts:
    """The fonts of the system and the user's own, plain ones first."""
    home = Path(os.path.expanduser("~"))
    folders = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts"]
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    found = [str(file) for folder in folders for file in _font_files(folder)]
    return Fonts(sorted(found, key=lambda file: (sum(word in file.lower() for word in _SPECIAL), file)))


@cache
def load_font(file: str, size: float) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels; "" is Pillow's own, the same on every machine."""
    if file:
        return ImageFont.truetype(file, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _font_files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names if name.lower().endswith((".ttf", ".ttc", ".otf")))


def _printable(text: str) -> str:
    """A text on one line, without what has no picture of its own: marks of direction, variants of emoji."""
    plain = (" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc") and not "\ufe00" <= c <= "\ufe0f")


def _has(file: str, character: str) -> bool:
    box, picture = _outline(file, NO_CHARACTER), _outline(file, character)
    return box is not None and picture is not None and (picture != box or character.isspace())


@cache
def _outline(file: str, character: str) -> bytes | None:
    """What a font draws, to be compared; None if the font cannot be used."""
    try:
        mask = load_font(file, 32).getmask(character)
        return bytes(str(mask.size), "ascii") + bytes(mask)
    except (OSError, ValueError):
        return None
