"""The one writer: a file of ours is replaced as a whole, and a file of the user's is never overwritten.

A file is written under a temporary name beside the target, then renamed, so that a kill leaves the old one or the new
one; a symbolic link is followed and stays. Several files that belong together are written to a folder inside theirs,
which is renamed once they are complete: from then on they count as written, and the next writer moves those that a kill
has left in it. The folder itself is never moved: it may be `.`, a link or a mounted volume, and may hold other files.

Files of ours carry a seal, the checksum of their content before it. A file of the user's has none, and one of ours that
the user has changed has a wrong one.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from raytune_m2f.errors import InputError

log = logging.getLogger(__name__)

COMPLETE = ".raytune_m2f.new"
"""The folder of complete files that are not all moved to their places yet."""
LONGEST_NAME = 255
"""Bytes of a file's name, on most systems."""
_SEAL = b"raytune_m2f:"
_END = re.compile(rb'"\s*}(\n])?\n| -->\n|\n|.{4}\0{4}IEND\xaeB`\x82', re.DOTALL)
"""What stands after a seal: the end of a JSON object or of a list of them, of a comment of HTML or YAML, of a PNG."""
_NOTHING = b"[]\n"
_SOFTWARE, _PNG_END = b"Software\0", 12
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.raytune_m2f\.tmp", re.DOTALL)


# One file


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that, whatever happens, it is either the old one or the whole new one.

    Args:
        durable: return only when it is on the disk, so that a machine that stops does not lose it.

    Raises:
        OSError: it cannot be written; nothing half-written is left.
    """
    with replacing(path, durable=durable) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` at the end of the block, unless the block raises; see `write_atomically`.

    Raises:
        OSError: it cannot be written.
    """
    if _is_device(path):
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    with _errors_naming(path):
        file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        with _errors_naming(path):
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Errors name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _is_device(path: Path) -> bool:
    """/dev/stdout and others that are written to as they are."""
    return path.exists() and not path.is_file() and not path.is_dir()


def link(source: Path, target: Path) -> None:
    """Give a file that is never changed, only replaced, a second name, unless something has that name.

    Where the file system has no links it becomes a copy.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as old, replacing(target) as new:
            shutil.copyfileobj(old, new)


def is_temporary(path: Path) -> bool:
    """Whether a file or a folder is one that a killed writer has left behind."""
    return path.name == COMPLETE or _TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Delete what killed writers have left behind in a folder in which no other process writes now."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def shortened(name: str, end: str) -> str:
    """`name` + `end`, with as much of `name` as a file's name has room for."""
    room = LONGEST_NAME - len(os.fsencode(end))
    return os.fsencode(name)[:room].decode("utf-8", "ignore" if _is_text(name) else "surrogateescape") + end


def _temporary(path: Path) -> Path:
    return path.with_name(shortened(f".{path.name}", f".{uuid.uuid4().hex[:12]}.raytune_m2f.tmp"))


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


# Several files that belong together


@contextmanager
def replacing_together(folder: Path) -> Iterator[Path]:
    """A new folder whose files take their places in `folder` at the end of the block, unless the block raises.

    What is in `folder` when the block begins is complete, and nothing of killed writers is left beside it.

    Raises:
        InputError: another process is doing the same.
        OSError: they cannot be written; the old ones are as they were.
    """
    folder = Path(os.path.realpath(folder))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        settle(folder)
        sweep(folder)
        building = _temporary(folder / COMPLETE)
        try:
            building.mkdir()
            yield building
            for file in building.iterdir():
                _sync(file)
            building.rename(folder / COMPLETE)  # from here on they count as written
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            if made:
                folder.rmdir()
            raise
        settle(folder)


def settle(folder: Path) -> None:
    """Move the files of `replacing_together` to their places, where a kill has interrupted it."""
    complete = folder / COMPLETE
    if complete.is_dir():
        for file in sorted(complete.iterdir()):
            file.replace(folder / file.name)
        complete.rmdir()


def newest(folder: Path, name: str) -> Path:
    """The present path of a file of `replacing_together`, for a reader, which must not call `settle`."""
    complete = folder / COMPLETE / name
    return complete if complete.exists() else folder / name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing to {folder}: wait for it, or give another folder.") from None
        except OSError:  # not every shared storage can lock a folder
            pass
        yield
    finally:
        os.close(descriptor)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


# The seal


def sealed(content: bytes, end: bytes) -> bytes:
    """The content with its seal, and `end` after it: what closes the comment, or whatever the seal stands in."""
    assert _END.fullmatch(end)
    return content + _SEAL + checksum(content).encode() + end


def sealed_json(content: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A JSON object whose last entry, "written_by", is the seal."""
    text = json.dumps({**content, "written_by": ""}, indent=indent)
    opened, closed = text[: text.rindex('"')], text[text.rindex('"') :]
    return sealed(opened.encode(), f"{closed}\n".encode()).decode()


def sealed_json_lines(objects: Sequence[Mapping[str, Any]]) -> str:
    """A JSON list of objects, one a line; the last entry of the last one, "written_by", is the seal.

    An empty list has none, and is taken for ours all the same: it holds nothing.
    """
    if not objects:
        return _NOTHING.decode()
    lines = [json.dumps(each, allow_nan=False) for each in (*objects[:-1], {**objects[-1], "written_by": ""})]
    return sealed(("[\n" + ",\n".join(lines)[:-2]).encode(), b'"}\n]\n').decode()


def sealed_yaml(text: str) -> str:
    """YAML whose last line, a comment, is the seal."""
    return sealed(f"{text}# ".encode(), b"\n").decode()


def sealed_png(png: bytes) -> bytes:
    """A PNG with the seal as the text "Software", in front of its end."""
    start = png[:-_PNG_END] + struct.pack(">I", len(_SOFTWARE) + len(_SEAL) + 64) + b"tEXt" + _SOFTWARE
    text = _SEAL + checksum(start).encode()
    return start + text + struct.pack(">I", zlib.crc32(b"tEXt" + _SOFTWARE + text)) + png[-_PNG_END:]


def checksum(content: bytes) -> str:
    """SHA-256 in 64 characters."""
    return hashlib.sha256(content).hexdigest()


def checksum_of(path: Path) -> str:
    """SHA-256 of a file, which may be large."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_ours(path: Path) -> bool:
    """Whether a file is as we wrote it."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return False
    if content == _NOTHING:
        return True
    place = content.rfind(_SEAL)
    start, end = place + len(_SEAL), place + len(_SEAL) + 64
    whole = place >= 0 and _END.fullmatch(content, end) is not None
    return whole and content[start:end] == checksum(content[:place]).encode()


def put_aside(path: Path) -> None:
    """Give a file that is not as we wrote it another name, `<name>.1` or so, before ours takes its place."""
    if os.path.lexists(path) and not is_ours(path):
        names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
        free = next(name for name in names if not os.path.lexists(name))
        log.warning("%s was changed since raytune_m2f wrote it, or is from elsewhere: it is %s now", path, free.name)
        path.rename(free)


def require_free(path: Path, what: str) -> None:
    """Refuse to write over a file of the user's.

    Args:
        what: that the file is of, for the message: "--output", say.

    Raises:
        InputError: something is there that is not as we wrote it.
    """
    if os.path.lexists(path) and not _is_device(path) and not is_ours(path):
        raise InputError(
            f"{what}: {path} would be written over, but it is not from raytune_m2f, or was changed since: move it away "
            "or give another place."
        )


def require_new(path: Path, what: str) -> None:
    """Refuse to write over any file, where ours could not be told from others. Raises InputError."""
    if os.path.lexists(path) and not _is_device(path):
        raise InputError(f"{what}: {path} exists: move it away or give another place.")
