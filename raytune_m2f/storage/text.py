"""Reading text and JSON of files that anybody may have changed: whatever is wrong is one error, and nothing hangs."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from raytune_m2f.errors import RaytuneM2FError

MIB = 2**20
LARGEST = 256 * MIB
"""Bytes; no file that this package writes comes near it."""
MOST_DIGITS = 40
"""Digits of a whole number; Python reads thousands, and fails when such a number becomes text or a float."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path, error: type[RaytuneM2FError], *, most: int = LARGEST) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        most: its size at most [bytes].

    Raises:
        error: it is no file, too large, in another encoding, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise error(f"{path}: is {_kind(found.st_mode)}; give a file")
        if found.st_size > most:
            raise error(
                f"{path}: is {found.st_size / MIB:.0f} MiB large, allowed are {most / MIB:.0f} MiB: is it this file?"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        raise error(f"{path}: cannot be read as text: {getattr(cause, 'strerror', None) or cause}") from None
    return decode_utf8(content, path, error)


def decode_utf8(content: bytes, path: Path, error: type[RaytuneM2FError]) -> str:
    """The bytes of a file as text; raises `error` if they are not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise error(f"{path}: cannot be read as text: it is in UTF-16; save it as UTF-8") from None
        line = content.count(b"\n", 0, cause.start) + 1
        raise error(
            f"{path}: cannot be read as text: line {line} is not UTF-8 (byte 0x{content[cause.start]:02x}); save it "
            "as UTF-8"
        ) from None


def read_json(path: Path, error: type[RaytuneM2FError]) -> Any:
    """What a JSON file holds, of whatever type.

    Raises:
        error: it cannot be read, or is not JSON.
    """
    text = read_text(path, error)
    try:
        return parse_json(text)
    except ValueError as cause:
        raise error(f"{path} is no JSON: {cause}") from None


def read_object(path: Path, error: type[RaytuneM2FError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        error: it cannot be read, is not JSON, or holds something else.
    """
    content = read_json(path, error)
    if not isinstance(content, dict):
        raise error(f"{path}: got {type(content).__name__}, allowed: a JSON object")
    return content


def parse_json(text: str) -> Any:
    """JSON whose numbers and texts can be shown and saved.

    Raises:
        ValueError: it is none, nested too deep, or has a number or a text that is none.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        content = json.loads(text, parse_int=_whole)
        if _HALF.search(text) and (problem := text_problem(json.dumps(content, ensure_ascii=False))):
            raise ValueError(problem)  # looked at twice, as most halves stand beside their other half
    except RecursionError:
        raise ValueError("nested too deep") from None
    return content


def text_problem(text: str) -> str:
    """Why a text can be neither a name nor a path, nor be printed or saved; empty if it can."""
    if found := _SURROGATE.search(text):
        return f"a text with \\u{ord(found[0]):04x}, which is half a character"
    return "a text with a NUL in it" if "\0" in text else ""


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
