"""Open annotation files that may come from anybody: bounded, no entity of an XML file is expanded, nothing is executed.

Whatever is wrong with a file is one DatasetError that names it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from raytune_m2f.errors import DatasetError

LARGEST = 4 * 2**30
"""Bytes of an annotation file; what is larger is not read. COCO's own training file has 0.5 * 2**30."""
PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
LFS = b"version https://git-lfs"


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        DatasetError: it cannot be read, is no file, is too large, or is an archive or a stand-in for one.
    """
    try:
        if not os.path.isfile(path):  # opening a pipe would block
            raise DatasetError(f"annotation file {path} does not exist or is no file")
        if (size := path.stat().st_size) > LARGEST:
            raise DatasetError(
                f"annotation file {path} has {size / 2**30:.1f} GiB, at most {LARGEST / 2**30:.0f} are read"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"annotation file {path} cannot be read: {error.strerror or error}") from error
    for start, what in PACKED.items():
        if content.startswith(start):
            raise DatasetError(f"{path} is {what}: unpack it, and give the annotation file or the folder in it")
    if content.startswith(LFS):
        raise DatasetError(f"{path} is a pointer of Git LFS, not the file: run `git lfs pull` where it comes from")
    return content


def parse_json(content: bytes, path: Path) -> Any:
    """JSON of any Unicode encoding, with or without a byte order mark; NaN and Infinity are floats."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"annotation file {path} is not JSON: {error}") from error


def parse_yaml(content: bytes, path: Path) -> Any:
    """The content of a YAML file; no object is made of it but plain ones."""
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error


def parse_xml(content: bytes, path: Path) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        DatasetError: it is no XML, or has a DOCTYPE: its entities could fill the memory, and no tool writes one.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except _DoctypeError:
        raise DatasetError(f"annotation file {path} has a DOCTYPE, which is not read: take it out") from None
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DatasetError(f"annotation file {path} is not XML: {error}") from error
    return root


class _DoctypeError(Exception):
    pass


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise _DoctypeError


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in the order of their names; hidden ones and links in a circle are left out."""
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = (
            sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
            if real not in seen
            else []
        )
        if real not in seen:
            yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))
        seen.add(real)
