"""The files of a project: their text, and how they are written where the user may have changed them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.config.paths import absolute
from raytune_m2f.errors import InputError
from raytune_m2f.project.proposal import Proposal
from raytune_m2f.project.settings import Setting
from raytune_m2f.storage.files import is_ours, replacing_together, require_free, sealed_json, sealed_yaml

CONFIG, SPACE, DATA = "config.yaml", "space.yaml", "data"
WIDTH = 110


def config_text(proposal: Proposal, head: Iterable[str]) -> str:
    """config.yaml: the values that were proposed, each below the reason that it has.

    Args:
        head: paragraphs of the comment at the top.
    """
    tree: dict[str, Any] = {}
    for setting in (proposal.base, *proposal.settings):
        *sections, key = setting.key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[key] = setting
    return "\n".join([*_head(head), *_nested(tree, 0), ""])


def space_text(proposal: Proposal, head: Iterable[str]) -> str:
    """space.yaml, in the same way."""
    lines = (line for setting in proposal.space for line in _lines(setting.key, setting, 0))
    return "\n".join([*_head(head), *lines, ""])


def _head(paragraphs: Iterable[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from _comment(paragraph, 0)
    yield ""


def _nested(tree: Mapping[str, Any], level: int) -> Iterator[str]:
    for key, node in tree.items():
        if isinstance(node, Setting):
            yield from _lines(key, node, level)
        else:
            yield f"{'  ' * level}{key}:"
            yield from _nested(node, level + 1)


def _lines(key: str, setting: Setting, level: int) -> Iterator[str]:
    yield from _comment(setting.why, level)
    yield f"{'  ' * level}{key}: {_flow(setting.value)}"


def _comment(text: str, level: int) -> Iterator[str]:
    """A comment that stays one, whatever names are in it."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    indent = f"{'  ' * level}# "
    if not plain:
        return
    yield from textwrap.wrap(
        plain, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)[1:-2]


def images_path(root: Path, output: Path) -> tuple[str, str]:
    """How the configuration names the folder of the images, and why so.

    Relative if it lies in the project, which may then be moved as a whole; else absolute: the images stay where they
    are when the project moves, and on a cluster the path on the shared storage is the same on every machine.

    Raises:
        InputError: the path has a part that a configuration takes for a variable.
    """
    output = Path(os.path.abspath(output))
    if root.is_relative_to(output):
        return root.relative_to(output).as_posix(), "within this folder, with which they may be moved"
    text = str(root)
    try:
        same = absolute(text, Path("/")) == os.path.normpath(text)
    except ValueError:
        same = False
    if not same or "://" in text:
        raise InputError(
            f"image folder {text}: a configuration takes $NAME for a variable, and :// for an address; rename the "
            "folder, or make a symbolic link to it and give that."
        )
    return text, "where they are; absolute, so that this folder may be moved. A variable, ${HOME} say, may stand in it"


def require_writable(output: Path) -> None:
    """Raises InputError where something would be written over that is not from us, or was changed since."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file: give a folder.")
    if (output / DATA).exists() and not (output / DATA).is_dir():
        raise InputError(
            f"--output: {output / DATA} is a file, and the annotations' folder is called so: move it away."
        )
    for name in (CONFIG, SPACE, *(f"{DATA}/{part}.json" for part in ("train", "val", "test"))):
        require_free(output / name, "--output")


def write(output: Path, annotations: Mapping[str, Mapping[str, Any]], config: str, space: str) -> None:
    """Write the project; call `require_writable` before.

    Args:
        annotations: the content of each file in data/, by its name without .json. A file of ours from an earlier time
            that is not among them is deleted.
    """
    with replacing_together(output / DATA) as folder:
        for part, content in annotations.items():
            (folder / f"{part}.json").write_text(sealed_json(content), encoding="utf-8")
    for path in (output / DATA / f"{part}.json" for part in ("train", "val", "test") if part not in annotations):
        if is_ours(path):
            path.unlink()
    with replacing_together(output) as folder:
        (folder / CONFIG).write_text(sealed_yaml(config), encoding="utf-8")
        (folder / SPACE).write_text(sealed_yaml(space), encoding="utf-8")
