"""What the documents tell the reader to type: every command of every block, as words, with its place."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md")), REPOSITORY / "benchmarks/README.md"]
YAMLS = [path for folder in ("configs", "search_spaces") for path in sorted((REPOSITORY / folder).rglob("*.yaml"))]
SEPARATORS = ("&&", "||", "|", ";", "&")


@dataclass(frozen=True)
class Block:
    """A ``` block.

    Attributes:
        document: path from the repository.
        line: of its first line, counted from 1.
        language: behind the ```.
    """

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command; comments left out, continued lines joined, what && and | join taken apart."""
        return [words for line in _logical_lines(self.text) for words in split(line)]


def blocks(document: Path, languages: str = "bash|sh|shell|console") -> list[Block]:
    """The blocks of a document whose language matches."""
    text = document.read_text(encoding="utf-8")
    name = document.relative_to(REPOSITORY).as_posix()
    return [
        Block(name, text.count("\n", 0, match.start()) + 2, match[1], match[2])
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if re.fullmatch(languages, match[1])
    ]


def in_comments(file: Path) -> Block:
    """The commands in a YAML file's head, which are comments indented by three blanks or more."""
    lines = [match[1] for match in re.finditer(r"^# {3,}(.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)]
    text = "\n".join(lines)
    return Block(file.relative_to(REPOSITORY).as_posix(), 1, "comment", text)


def split(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word in SEPARATORS:
            if words:
                yield words
            words = []
        else:
            words.append(word)


def _logical_lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
