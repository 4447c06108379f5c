"""The text of a project's files, and what is written over."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raytune_m2f.errors import InputError
from raytune_m2f.project.files import config_text, images_path, require_writable, space_text, write
from raytune_m2f.project.proposal import Proposal
from raytune_m2f.project.settings import Setting

SPACE = (Setting("SOLVER.BASE_LR", {"type": "uniform", "low": 1e-5, "high": 1.0}, "why not"),)
PROPOSAL = Proposal(
    Setting("_BASE_", "small_data", "few"),
    (
        Setting("INPUT.MIN_SCALE", 0.5, "a: b # c\n- d: {e}\t\x00" + "long words " * 40),
        Setting("SOLVER.BASE_LR", 1e-5, "slow"),
        Setting("INPUT.COLOR_AUG_SSD", False, ""),
        Setting("DATASETS.REGISTER.train", {"annotations": "it's: {x}.json", "images": "/a b/ü # c"}, ""),
        Setting("SOLVER.STEPS", [1, 2], ""),
    ),
    SPACE,
)


def test_the_text_has_every_value_below_its_reason() -> None:
    text = config_text(PROPOSAL, ["a title", "and more"])
    assert yaml.safe_load(text.replace("1.0e-05", "1.0e-5")) == {
        "_BASE_": "small_data",
        "INPUT": {"MIN_SCALE": 0.5, "COLOR_AUG_SSD": False},
        "SOLVER": {"BASE_LR": 1e-5, "STEPS": [1, 2]},
        "DATASETS": {"REGISTER": {"train": {"annotations": "it's: {x}.json", "images": "/a b/ü # c"}}},
    }
    assert "# slow\n  BASE_LR: 1.0e-05\n" in text
    assert text.startswith("# a title\n# and more\n\n# few\n_BASE_: small_data\n")
    assert max(map(len, text.splitlines())) <= 110
    assert yaml.safe_load(space_text(PROPOSAL, ["a title"])) == {SPACE[0].key: SPACE[0].value}


def test_files_of_ours_are_replaced_and_a_changed_one_is_not(tmp_path: Path) -> None:
    for content in ({"train": {"a": 1}, "val": {}, "test": {}}, {"train": {"a": 2}, "val": {}}):
        require_writable(tmp_path)
        write(tmp_path, content, "A: 1\n", "B: 2\n")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "config.yaml",
        "space.yaml",
        "train.json",
        "val.json",
    ]
    (tmp_path / "config.yaml").write_text("A: 2\n")
    with pytest.raises(InputError, match=r"config\.yaml would be written over, but it is not from raytune_m2f"):
        require_writable(tmp_path)


@pytest.mark.parametrize("name", ["space.yaml", "data/val.json", "data"])
def test_a_file_of_the_users_is_never_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="--output: "):
        require_writable(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "project").write_text("mine")
    with pytest.raises(InputError, match="is a file: give a folder"):
        require_writable(tmp_path / "project")


@pytest.mark.parametrize(
    ("root", "path"),
    [("/project/photos", "photos"), ("/project", "."), ("/photos", "/photos"), ("/project2/a b", "/project2/a b")],
)
def test_images_are_named_so_that_the_project_can_be_moved(root: str, path: str) -> None:
    assert images_path(Path(root), Path("/project"))[0] == path


@pytest.mark.parametrize("root", ["/photos/$HOME", "/photos/${NOT_SET_AT_ALL}/a"])
def test_a_folder_that_reads_as_a_variable_is_refused(root: str) -> None:
    with pytest.raises(InputError, match="symbolic link"):
        images_path(Path(root), Path("/project"))
