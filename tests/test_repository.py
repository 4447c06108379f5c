"""What is written about the repository is true: links, file tree, commands, dependencies."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted(REPOSITORY.glob("docs/*.md")),
    REPOSITORY / "benchmarks/README.md",
]

# Written in pieces, so that this file does not contain what it looks for.
REGISTRY_ADDRESSES = [
    "-".join(("index", "url")),
    "-".join(("find", "links")),
    "-".join(("trusted", "host")),
    ".".join(("files", "pythonhosted")),
    "/".join(("pypi.org", "simple")),
    "/".join(("download.pytorch.org", "whl")),
    "/".join(("", "opt", "pypi")),
]


def tracked_files() -> list[str]:
    """Paths under version control; skips the test where this is not a git checkout (an unpacked archive)."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    # safe.directory: CI's checkout may belong to another user.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split("\0") if path]


def fenced_blocks(text: str, languages: str) -> list[str]:
    """The contents of the ``` blocks whose language matches the pattern."""
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def readme() -> str:
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_relative_links_exist(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    relative = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in relative if not (document.parent / target).exists()]
    assert not missing, f"{document.name} links to what does not exist: {missing}"


def tree_entries(block: str) -> list[tuple[int, str]]:
    """(depth, path) of every entry of the README's file tree.

    One entry a line: indentation (spaces or the usual box characters), the path (or several, with a space
    between), two spaces or more, what it is.
    """
    entries: list[tuple[int, str]] = []
    parents: list[tuple[int, str]] = []
    for line in filter(str.strip, block.splitlines()):
        names = line.lstrip(" │├└─")
        indent = len(line) - len(names)
        while parents and parents[-1][0] >= indent:
            parents.pop()
        folder = parents[-1][1] if parents else ""
        paths = [f"{folder}{name}" for name in re.split(r" {2,}", names)[0].split()]
        entries += [(len(parents), path) for path in paths]
        if len(paths) == 1 and paths[0].endswith("/"):
            parents.append((indent, paths[0]))
    return entries


def readme_tree() -> list[tuple[int, str]]:
    section = re.search(
        r"^#+ [^\n]*\b(tree|layout|files)\b.*", readme(), flags=re.MULTILINE | re.DOTALL | re.IGNORECASE
    )
    assert section, "README.md has no heading with the word tree, layout or files"
    blocks = fenced_blocks(section[0], "text")
    assert blocks, "README.md: no ```text block after the heading of the file tree"
    return tree_entries(blocks[0])


def test_tree_entries_are_read_with_their_folders() -> None:
    block = """
raytune_m2f/     the system
  data/          COCO
    coco.py      reads and checks
  errors.py      one tree
docs/ Makefile   two in one
"""
    assert tree_entries(block) == [
        (0, "raytune_m2f/"),
        (1, "raytune_m2f/data/"),
        (2, "raytune_m2f/data/coco.py"),
        (1, "raytune_m2f/errors.py"),
        (0, "docs/"),
        (0, "Makefile"),
    ]


def test_readme_tree_names_what_exists() -> None:
    missing = [path for _, path in readme_tree() if not (REPOSITORY / path).exists()]
    assert not missing


def test_readme_tree_names_all_that_is_tracked() -> None:
    named = {path.split("/")[0] for _, path in readme_tree()}
    top_level = {path.split("/")[0] for path in tracked_files()}
    missing = sorted(name for name in top_level - named if not name.startswith("."))
    assert not missing, f"README.md's file tree lacks {missing}"


def test_readme_starts_with_the_two_commands() -> None:
    blocks = fenced_blocks(readme(), "bash|sh|shell|console")
    assert blocks, "README.md has no block of commands"
    lines = (re.sub(r"\s+#.*", "", line).removeprefix("$ ").strip() for line in blocks[0].splitlines())
    commands = [line for line in lines if line and not re.match(r"#|git clone |cd ", line)]
    assert commands[:2] == ["make demo", "make test"]


def test_no_file_names_a_registry() -> None:
    found = []
    for name in tracked_files():
        path = REPOSITORY / name
        content = path.read_bytes().decode("utf-8", errors="ignore") if path.is_file() else ""
        found += [f"{name}: {address}" for address in REGISTRY_ADDRESSES if address in content]
    assert not found


def dependency_lines() -> list[str]:
    """The lines of pyproject.toml that state a dependency of the package or of one of its extras."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    return re.findall(r'^ +"[^"]+".*$', project, flags=re.MULTILINE)


def test_every_dependency_says_what_it_is_for() -> None:
    assert len(dependency_lines()) > 10
    bare = [line.strip() for line in dependency_lines() if not re.search(r"  # \w+", line)]
    assert not bare


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {pin.name.lower(): pin for pin in map(Requirement, filter(lambda line: line and line[0] != "#", lines))}
    for line in dependency_lines():
        needed = Requirement(line.split('"')[1])
        pin = pins.get(needed.name.lower())
        assert pin, f"constraints.txt does not pin {needed.name}"
        (version,) = pin.specifier
        assert version.operator == "=="
        assert needed.specifier.contains(version.version), f"{pin} is outside {needed}"


@pytest.mark.parametrize("script", sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("[a-z]*.py")))
def test_benchmarks_can_be_imported_without_what_they_compare_with(script: str) -> None:
    module = importlib.import_module(f"benchmarks.{script}")
    assert module.__doc__
