"""`init`: words in, a project and what was decided out; its next commands work as printed."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import raytune_m2f as rm
from raytune_m2f.cli.init import repeated
from raytune_m2f.cli.main import app
from raytune_m2f.errors import InputError

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Call the command line in this process; its log handler is taken back afterwards."""
    monkeypatch.setattr("raytune_m2f.cli.console.out.width", 400)
    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.fixture
def cvat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """An export with attributes and its images, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for n in range(1, 9):
        Image.new("RGB", (40, 30), (n, 90, 90)).save(f"photos/{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 40, "height": 30})
        for x in (0, 20):
            attributes = {"color": ["red", "green"][n % 2], "damaged": n % 3 == 0, "occluded": False}
            outline = [[x, 0, x + 15, 0, x + 15, 15, x, 15]]
            annotations.append({"id": len(annotations) + 1, "image_id": n, "category_id": 1 + x // 20, "iscrowd": 0})
            annotations[-1] |= {"segmentation": outline, "area": 225, "bbox": [x, 0, 15, 15], "attributes": attributes}
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "pear"}]
    Path("export.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return "export.json", "photos"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--annotations a b --output o", "--annotations a --annotations b --output o"),
        ("--annotations a --annotations b", "--annotations a --annotations b"),
        ("--annotations=a b --images c d e", "--annotations=a --annotations b --images c --images d --images e"),
        ("--output o extra --images c", "--output o extra --images c"),
        ("-q --images c -q d", "-q --images c -q d"),
        ("--images a b --seed 3", "--images a --images b --seed 3"),
    ],
)
def test_an_option_takes_all_words_up_to_the_next(words: str, meant: str) -> None:
    assert list(repeated(words.split())) == meant.split()


def test_what_was_read_and_decided_is_printed(run: Run, cvat: tuple[str, str]) -> None:
    done = run("init", "--annotations", cvat[0], "--images", cvat[1], "--output", "my project", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "read export.json: COCO with attributes (CVAT), 8 images, 16 objects" in lines
    assert "attributes.color 16 green 8, red 8 color (2 classes)" in lines
    assert "attributes.occluded 16 false 16 no: the same for all that have it: 'false'" in lines
    assert "split: 2 of 8 images for val (0.2 was asked for), by category and subcategory, seed 0" in lines
    config = rm.load_config("my project/config.yaml")
    assert config.DATASETS.SUBCATEGORIES == ("color", "damaged")
    assert not config.INPUT.COLOR_AUG_SSD
    commands = [shlex.split(line) for line in lines if line.startswith("raytune-m2f ")]
    assert [words[:4] for words in commands] == [
        ["raytune-m2f", name, "--config", "my project/config.yaml"] for name in ("doctor", "train", "tune")
    ]


def test_heads_and_split_as_asked(run: Run, cvat: tuple[str, str]) -> None:
    heads = ("--subcategory", "hue=color", "--subcategory", "damaged")
    command = ("init", "--annotations", cvat[0], "--images", cvat[1], *heads, "--val", "0.5", "--seed", "3")
    done = run(*command, "--output", "project")
    assert done.exit_code == 0, done.output
    content = [json.loads(Path(f"project/data/{part}.json").read_text()) for part in ("train", "val")]
    assert [len(one["images"]) for one in content] == [4, 4]
    assert content[0]["subcategories"] == {"hue": ["green", "red"], "damaged": ["false", "true"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subcategory", "size"], "no object has a field 'size'"),
        (["--group-by", "("], "no regular expression"),
        (["--annotations", "nothing.json"], "nothing.json"),
        (["--images", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_error_and_nothing_is_written(
    run: Run, cvat: tuple[str, str], words: list[str], message: str
) -> None:
    files = [] if "--annotations" in words else ["--annotations", cvat[0]]
    images = [] if "--images" in words else ["--images", cvat[1]]
    done = run("init", *files, *images, "--output", "project", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("project").exists()


@pytest.mark.parametrize("val", ["0", "1", "nan", "2"])
def test_a_share_is_between_nothing_and_all(run: Run, cvat: tuple[str, str], val: str) -> None:
    assert run("init", "--annotations", cvat[0], "--output", "project", "--val", val).exit_code == 2
    with pytest.raises(InputError, match="val: got"):
        rm.init(cvat[0], "project", val=float(val))


def test_the_function_takes_what_the_command_takes(cvat: tuple[str, str]) -> None:
    project = rm.init(cvat[0], "project", [Path(cvat[1])], subcategories=["none"], device="cpu")
    assert project.heads == ()
    assert project.config == Path("project/config.yaml")
    with pytest.raises(InputError, match="allowed: a list"):
        rm.init(cvat[0], "other", subcategories="none")
    with pytest.raises(InputError, match="device: got 'tpu'"):
        rm.init(cvat[0], "other", device="tpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="annotations: got an empty list"):
        rm.init([], "other")
