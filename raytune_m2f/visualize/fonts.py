"""Fonts for any text: Pillow's own, and for what that lacks one of the system's.

Pillow draws an empty box for a character that its font lacks. So each character is looked up first; a text that no font
can draw is `legible` to nobody, and its user writes something else.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

Run = tuple[str, ImageFont.FreeTypeFont]
"""Text and its font."""

_MISSING = "\U0010fffe"  # no font has it
_SHAPED = ((0x0590, 0x08FF), (0x0900, 0x109F), (0x1780, 0x17FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF))
"""Arabic, Hebrew, the scripts of India and south-east Asia: their letters have to be joined or put in order."""
_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "serif", "math", "emoji")


@cache
def load_font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font: no file to find, the same on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def line_length(text: str, size: float) -> float:
    """Width of a text in pixels."""
    return sum(font.getlength(part) for part, font in runs(text, size))


def draw_line(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float, colour: object) -> None:
    """Draw a text whose left middle is `at`."""
    x, y = at
    for part, font in runs(text, size):
        draw.text((x, y), part, colour, font, anchor="lm")  # type: ignore[arg-type]  # any of Pillow's colours
        x += font.getlength(part)


def runs(text: str, size: float) -> list[Run]:
    """A text as it is drawn, in parts of one font each."""
    shown = _on_one_line(text)
    fonts: list[str | None] = _one_file_for(shown) or [_file_for(character) for character in shown]
    pairs = zip(shown, fonts, strict=True)
    return [("".join(c for c, _ in part), _at(file, size)) for file, part in groupby(pairs, key=lambda pair: pair[1])]


def missing(text: str) -> str:
    """The characters of a text that no font here can draw; empty if it is legible."""
    return "".join(dict.fromkeys(character for character in _on_one_line(text) if _file_for(character) is None))


def _on_one_line(text: str) -> str:
    """Without what has no picture of its own: line ends, marks of direction, variants of emoji."""
    plain = "".join(
        " " if c.isspace() else c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf"
    )
    return "".join(c for c in plain if not "\ufe00" <= c <= "\ufe0f" and unicodedata.category(c) != "Cc")


@cache
def _one_file_for(text: str) -> list[str | None]:
    """The font that has all of a text, for each character; none without one."""
    file = next((file for file in ("", *font_files()) if all(_has(file, c) for c in text)), None)
    return [] if file is None else [file] * len(text)


@cache
def _file_for(character: str) -> str | None:
    """The font's file, "" for Pillow's own; None if there is none."""
    code = ord(character)
    if unicodedata.category(character) in ("Cs", "Co", "Cn"):
        return None  # half a character, or one that means nothing
    if any(first <= code <= last for first, last in _SHAPED) and not features.check("raqm"):
        return None  # it would be drawn letter by letter, from the wrong end
    return next((file for file in ("", *font_files()) if _has(file, character)), None)


def _has(file: str, character: str) -> bool:
    box, picture = _outline(file, _MISSING), _outline(file, character)
    return box is not None and picture is not None and (picture != box or character.isspace())


@cache
def _outline(file: str, character: str) -> bytes | None:
    """What a font draws, to be compared; None if the font cannot be used."""
    try:
        font = load_font(32) if not file else ImageFont.truetype(file, 32)
        mask = font.getmask(character)
        return bytes(str(mask.size), "ascii") + bytes(mask)
    except (OSError, ValueError):
        return None


@cache
def font_files() -> tuple[str, ...]:
    """The system's fonts and the user's own, plain ones first."""
    found = [str(path) for folder in _folders() for path in _fonts_in(folder)]
    return tuple(sorted(found, key=lambda file: (sum(word in file.lower() for word in _SPECIAL), file)))


def _fonts_in(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names if name.lower().endswith((".ttf", ".ttc", ".otf")))


def _folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts"]


@cache
def _at(file: str | None, size: float) -> ImageFont.FreeTypeFont:
    return load_font(size) if not file else ImageFont.truetype(file, size)
