"""The one writer: old or new as a whole whenever it is killed, links followed, and files of others left alone."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from raytune_m2f.errors import InputError
from raytune_m2f.storage import files

STEPS = ("replace", "rename", "open", "mkdir", "rmdir", "unlink", "iterdir", "write_text")
"""Whatever of Path the writer changes the disk with."""
NAMES = ("a.txt", "b.txt", "c.txt")


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Whether `action`, in a process that dies at its step number `step`, was killed before its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns where there are threads; the child starts none
        child = os.fork()
    if child == 0:
        left = [step]
        for name in STEPS:
            method = getattr(Path, name)

            def counted(self: Path, *args: object, method: Callable[..., object] = method, **more: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return method(self, *args, **more)

            setattr(Path, name, counted)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def write_all(folder: Path, text: str) -> None:
    with files.replacing_together(folder) as new:
        for name in NAMES:
            (new / name).write_text(text)


def read_all(folder: Path) -> set[str]:
    return {files.newest(folder, name).read_text() for name in NAMES}


def test_a_kill_at_any_step_leaves_a_file_old_or_new(tmp_path: Path) -> None:
    file, outcomes, step = tmp_path / "a.txt", [], 0
    file.write_text("old")
    while killed_at(step, lambda: files.write_atomically(file, "new")):
        outcomes.append(file.read_text())
        file.write_text("old")
        step += 1
    assert outcomes == ["old"] * step
    assert step >= 2
    assert file.read_text() == "new"
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_kill_at_any_step_leaves_files_all_old_or_all_new_and_the_next_call_works(tmp_path: Path) -> None:
    outcomes, step, killed = [], 0, True
    while killed:
        folder = tmp_path / str(step)
        write_all(folder, "old")
        (folder / "notes").write_text("mine")
        killed = killed_at(step, partial(write_all, folder, "new"))
        (state,) = read_all(folder)  # one state, never a mixture
        outcomes.append(state)
        write_all(folder, "newer")
        assert read_all(folder) == {"newer"}
        assert sorted(path.name for path in folder.iterdir()) == [*NAMES, "notes"]
        assert (folder / "notes").read_text() == "mine"
        step += 1
    assert outcomes == sorted(outcomes, reverse=True)  # old up to one moment, new from then on
    assert {outcomes[0], outcomes[-1]} == {"old", "new"}
    assert outcomes.count("new") > len(NAMES)


def test_an_error_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    write_all(tmp_path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing_together(tmp_path) as new:
        (new / "a.txt").write_text(str(1 / 0))
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "b.txt") as file:
        file.write(b"half of it" * (1 // 0))
    assert read_all(tmp_path) == {"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == list(NAMES)


def test_temporary_names_are_nobody_elses(tmp_path: Path) -> None:
    for name in (".a.txt.tmp", "a.txt.tmp", ".tmp", ".a.txt.0123456789ab.tmp"):
        (tmp_path / name).write_text("mine")
    files.write_atomically(tmp_path / "a.txt", "ours")
    write_all(tmp_path, "ours")
    files.sweep(tmp_path)
    assert {path.read_text() for path in tmp_path.iterdir() if path.name not in NAMES} == {"mine"}
    assert len(list(tmp_path.iterdir())) == 4 + len(NAMES)


def test_two_cannot_write_to_a_folder_at_once(tmp_path: Path) -> None:
    with files.replacing_together(tmp_path), pytest.raises(InputError, match="another process"):
        write_all(tmp_path, "second")


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("there/a.txt")
    (tmp_path / "dangling.txt").symlink_to("there/b.txt")
    for name in ("link.txt", "dangling.txt"):
        files.write_atomically(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "there").iterdir()} == {"a.txt": "new", "b.txt": "new"}
    (tmp_path / "current").symlink_to("there", target_is_directory=True)
    write_all(tmp_path / "current", "export")
    assert (tmp_path / "current").is_symlink()
    assert read_all(tmp_path / "there") == {"export"}


def test_a_hard_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / "other")
    files.write_atomically(tmp_path / "other", "new")
    assert (tmp_path / "mine").read_text() == "mine"


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "no" / "a.txt", tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"directory|too long") as caught:
            files.write_atomically(path, "text")
        assert caught.value.filename == str(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    files.write_atomically(tmp_path / "a.txt", "text")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    files.require_free(Path("/dev/null"), "--output")
    files.write_atomically(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "苹" * 85, "a.txt", os.fsdecode(b"\xff" * 250)])
def test_long_names_are_cut_to_what_a_file_may_have(tmp_path: Path, name: str) -> None:
    cut = files.shortened(name, ".png")
    assert cut.endswith(".png")
    assert name.startswith(cut.removesuffix(".png"))
    files.write_atomically(tmp_path / cut, "text")
    files.write_atomically(tmp_path / name, "text")


def test_a_seal_tells_ours_from_what_was_changed_or_is_the_users(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    content = {"text": 'with "quotes" and 苹果 and \udcff', "list": [1, 2], "empty": ""}
    for indent in (None, 2):
        text = files.sealed_json(content, indent=indent)
        assert {key: value for key, value in json.loads(text).items() if key != "written_by"} == content
        file.write_text(text)
        assert files.is_ours(file)
        file.write_text(text.replace("[1, 2]" if indent is None else "1,", "[1, 3]" if indent is None else "7,"))
        assert not files.is_ours(file)
        file.write_text(json.dumps(json.loads(text), indent=4))  # read and written again, by an editor say
        assert not files.is_ours(file)
    file.write_text(text + "\nmy notes")
    assert not files.is_ours(file)


def test_only_what_is_ours_or_not_there_is_free(tmp_path: Path) -> None:
    file, link = tmp_path / "a.bin", tmp_path / "link"
    link.symlink_to(file)
    files.require_free(file, "--output")
    with pytest.raises(InputError, match=r"--output: .*link would be written over"):
        files.require_free(link, "--output")  # dangling: it is the user's
    file.write_bytes(files.sealed(b"ours", b" -->\n"))
    files.require_free(file, "--output")
    files.require_free(link, "--output")
    for content in (b"", b"theirs", b"raytune_m2f:", b"raytune_m2f:" + b"0" * 64):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.bin would be written over, but it is not from raytune_m2f"):
            files.require_free(file, "--output")
    with pytest.raises(InputError, match="would be written over"):
        files.require_free(tmp_path, "--output")
