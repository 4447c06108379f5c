"""Every command that a text tells the reader to type exists, with all its options, and so do the files that it names.

Each command of each block is looked at by the check of its program; a program without a check fails the test, so that
no block is passed over. What needs no cluster, no GPU and no download is run too, by `test_documented_road.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from documented import DOCUMENTS, REPOSITORY, YAMLS, Block, blocks, in_comments, split
from test_repository import tracked_files

from raytune_m2f.cli.main import app
from raytune_m2f.config.load import shipped_config
from raytune_m2f.study.space import packaged_spaces

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
LANGUAGES = "bash|python|yaml|json|text"
OWN_FILES = re.compile(
    r"my\.yaml|project/.*|my_\w+(\.py|/)|demo/.*|demo(_full)?\.yaml|data/.*|/shared/.*|/mnt/shared/.*"
)
"""What is the reader's, or was made by a command before."""
GROUP: Any = typer.main.get_command(app)


def ours(words: list[str]) -> None:
    """The command line takes the words, and the configuration and the space that they name are there."""
    context = GROUP.make_context("raytune-m2f", list(words))
    name, command, rest = GROUP.resolve_command(context, [*context._protected_args, *context.args])
    given = command.make_context(name, rest, parent=context).params
    if name == "submit":
        ours(given["command"])
    config, space = given.get("config"), given.get("space")
    own = config is None or OWN_FILES.fullmatch(config) or (REPOSITORY / config).is_file()
    assert own or shipped_config(config), f"no configuration {config}"
    own = space is None or OWN_FILES.fullmatch(space) or (REPOSITORY / space).is_file()
    assert own or space in packaged_spaces(), f"no search space {space}"


def make(words: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(words) <= set(targets), f"the Makefile has {targets}"


def pip(words: list[str]) -> None:
    """The extras and the files that it is given are there."""
    for word in words:
        wanted = re.fullmatch(r"(?:\.|raytune-m2f)\[(.*)\]", word)
        assert wanted is None or set(wanted[1].split(",")) <= set(extras()), f"the extras are {list(extras())}"
    files_exist(words)


def pytest_(words: list[str]) -> None:
    markers = re.findall(r'^    "(\w+): ', pyproject(), flags=re.MULTILINE)
    for option, value in itertools.pairwise(words):
        assert option != "-m" or value in markers, f"the markers are {markers}"
    files_exist(words)


def files_exist(words: list[str]) -> None:
    """Every word that is a path in a folder of the repository, or a file of its top, is there."""
    tops = {path.name for path in REPOSITORY.iterdir()}
    for word in words:
        path = word.split("::")[0]
        if path.split("/")[0] in tops - {"."} or re.fullmatch(r"[\w./-]+\.(py|sh|txt|yaml)", path):
            assert OWN_FILES.fullmatch(path) or (REPOSITORY / path).exists(), f"{path} is not there"


def dashboard(words: list[str]) -> None:
    """It is installed by what the page names before it."""
    for extra in ("dashboard", "dev"):
        assert '"optuna-dashboard' in extras()[extra]


def of_the_shell(words: list[str]) -> None:
    """Nothing of ours."""


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "raytune-m2f": ours,
    "make": make,
    "pip": pip,
    "pytest": pytest_,
    "python": files_exist,
    "optuna-dashboard": dashboard,
    "ray": files_exist,
    "docker": files_exist,
    "kubectl": files_exist,
    "sbatch": files_exist,
    "export": of_the_shell,
    "base64": of_the_shell,
    ".": of_the_shell,
}


def pyproject() -> str:
    return (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def extras() -> dict[str, str]:
    """The lines of each extra."""
    section = pyproject().partition("[project.optional-dependencies]")[2].partition("[project.scripts]")[0]
    return dict(re.findall(r"^(\w+) = \[\n(.*?)^\]", section, flags=re.MULTILINE | re.DOTALL))


def check(words: list[str]) -> None:
    """Raises unless the command can be typed."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    assert words[0] in CHECKS, f"say in CHECKS how {words[0]!r} is checked"
    CHECKS[words[0]](words[1:])
    for word in words[1:]:  # `ray exec cluster.yaml "raytune-m2f export ..."`
        if words[0] != "raytune-m2f" and word.startswith("raytune-m2f "):
            for inner in split(word):
                check(inner)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_command_of_a_block_can_be_typed(block: Block) -> None:
    commands = block.commands()
    assert commands
    for words in commands:
        check(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_block_says_its_language(document: Path) -> None:
    """A block without one would be passed over above."""
    assert not [str(block) for block in blocks(document, ".*") if not re.fullmatch(LANGUAGES, block.language)]


@pytest.mark.parametrize("file", YAMLS, ids=lambda path: path.stem)
def test_every_command_in_the_head_of_a_yaml_file_can_be_typed(file: Path) -> None:
    commands = [words for words in in_comments(file).commands() if words[0] in CHECKS]
    assert [words for words in commands if words[0] == "raytune-m2f"]
    for words in commands:
        check(words)


def test_the_example_of_every_command_can_be_typed() -> None:
    for name, command in GROUP.commands.items():
        example = re.search(r"Example: (raytune-m2f .*)", " ".join((command.help or "").split()))
        assert example, f"{name} --help has no example"
        check(example[1].split())


def test_every_command_that_any_text_names_exists() -> None:
    """In documents, error messages, docstrings, comments: `raytune-m2f WORD`."""
    wrong = []
    for name in tracked_files():
        path = REPOSITORY / name
        text = path.read_bytes().decode("utf-8", errors="ignore") if path.is_file() else ""
        named = re.finditer(r"raytune-m2f ([a-z][a-z_-]*)", text)
        wrong += [
            f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
            for match in named
            if match[1] not in GROUP.commands
        ]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "error"),
    [
        # in pieces, for the test above looks here too
        (" ".join(("raytune-m2f", "repair")), "repair"),
        ("raytune-m2f train --confg my.yaml --output out", "confg"),
        ("raytune-m2f train --config configs/none.yaml --output out", "none.yaml"),
        ("raytune-m2f submit --address http://head:8265 -- tune --trails 3", "trails"),
        ("make demos", "the Makefile has"),
        ("pip install 'raytune-m2f[dashbord]'", "the extras are"),
        ("pytest -m sloow tests/model", "the markers are"),
        ("python benchmarks/none.py", "none.py"),
        ("detectron3 train", "detectron3"),
    ],
)
def test_what_cannot_be_typed_is_found(line: str, error: str) -> None:
    """Guards the tests above against passing because nothing is looked at."""
    (words,) = split(line)
    with pytest.raises(Exception, match=error):
        check(words)
