"""An export replaces only what an export wrote, even when it is killed; what is damaged is said, and what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytune_m2f import export_files
from raytune_m2f.config import Config
from raytune_m2f.errors import CheckpointError, ModelError, RaytuneM2FError
from raytune_m2f.export import ExportedModel, export_run, load_export
from raytune_m2f.export_files import write_model
from raytune_m2f.storage.files import COMPLETE, sealed
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

CPU = torch.device("cpu")
FILES = ["README.md", "categories.json", "config.yaml", "metrics.json", "model.pth", "model.safetensors"]


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the smallest network, as its weights are written some hundred times here."""
    output = tmp_path_factory.mktemp("run")
    small = {"MODEL.BACKBONE.NAME": "build_mobilenet_v3_backbone", "MODEL.MOBILENETV3.NORM": "BN"}
    train_trial(tiny_config.with_values(small), TrialContext(output))
    return output


@pytest.fixture
def output(run: Path, tmp_path: Path) -> Path:
    """An export of iteration 2, to be replaced."""
    export_run(run, tmp_path / "model", iteration=2)
    return tmp_path / "model"


def iteration_of(folder: Path) -> int:
    number: int = json.loads((folder / "metrics.json").read_text())["iteration"]
    return number


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_export_is_replaced_and_other_files_stay(run: Path, output: Path) -> None:
    (output / "notes.txt").write_text("mine")
    (output / "more").mkdir()
    export_run(run, output, iteration=4)
    assert iteration_of(output) == 4
    assert names(output) == [*FILES, "more", "notes.txt"]
    assert (output / "notes.txt").read_text() == "mine"
    export_run(run, output, iteration=2)  # and again: what was written is recognised
    assert iteration_of(output) == 2


@pytest.mark.parametrize("changed", FILES)
def test_an_export_that_was_changed_is_not_replaced(run: Path, output: Path, changed: str) -> None:
    with (output / changed).open("ab") as file:
        file.write(b"\nmy own words\n")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ModelError, match=rf"{changed}.* was changed"):
        export_run(run, output, iteration=4)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize("theirs", ["model.pth", "README.md", "thesis.txt"])
def test_a_folder_of_others_is_refused(run: Path, tmp_path: Path, theirs: str) -> None:
    (tmp_path / theirs).write_text("mine")
    (tmp_path / "src").mkdir()
    with pytest.raises(ModelError, match="is no export"):
        export_run(run, tmp_path)
    assert names(tmp_path) == sorted([theirs, "src"])
    assert (tmp_path / theirs).read_text() == "mine"


def test_the_folder_may_be_here_a_link_or_have_a_neighbour(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / ".here.tmp").write_text("mine")
    (tmp_path / "current").symlink_to("here")
    (tmp_path / "later").symlink_to("v2")  # that is made
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", f"{tmp_path}/current/", "../here", "../here/../here", "../later"):
        export_run(run, Path(output))
        assert names(Path(output)) == FILES
        assert names(Path.cwd()) == FILES  # the folder that one is in has stayed
    assert (tmp_path / "current").is_symlink()
    assert names(tmp_path) == [".here.tmp", "current", "here", "later", "v2"]
    assert (tmp_path / ".here.tmp").read_text() == "mine"


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename", "pathlib.Path.rmdir", "pathlib.Path.replace"])
def test_a_failure_at_any_step_leaves_a_whole_export_and_the_next_one_works(
    run: Path, output: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    seen: set[int] = set()
    for step in range(20):
        export_run(run, output, iteration=2)
        with monkeypatch.context() as patch:
            patch.setattr(call, failing_at(step, eval(call, {"os": os, "pathlib": __import__("pathlib")})))
            try:
                export_run(run, output, iteration=4)
                done = True
            except (OSError, RaytuneM2FError):
                done = False
        load_export(output, CPU)
        complete = output / COMPLETE / "metrics.json"
        seen.add(iteration_of(complete.parent if complete.exists() else output))
        export_run(run, output, iteration=4)
        assert names(output) == FILES
        if done:
            break
    assert done
    assert 4 in seen


def failing_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [step]

    def counted(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(28, "No space left on device")
        return function(*arguments, **more)

    return counted


def test_a_new_export_that_fails_leaves_no_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", failing_at(0, os.fsync))
    with pytest.raises(CheckpointError, match="No space left"):
        export_run(run, tmp_path / "model")
    assert names(tmp_path) == []


def test_a_damaged_checkpoint_is_named_and_others_are_offered(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for path in (run / "checkpoints").iterdir():
        (copy / "checkpoints" / path.name).write_bytes(path.read_bytes())
    best, last = (copy / "checkpoints" / name for name in ("best.pth", "iter_0000004.pth"))
    best.write_bytes(best.read_bytes()[:-1000])
    last.write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        export_run(copy, tmp_path / "model", others=lambda: ["or trial 7"])
    first, *others = str(caught.value).splitlines()
    assert str(best) in first
    assert others == [
        "  iter_0000002.pth beside it is whole: export it by `--iteration 2`.",
        "  or trial 7",
    ]
    assert not (tmp_path / "model").exists()
    export_run(copy, tmp_path / "model", iteration=2)
    assert load_export(tmp_path / "model", CPU).categories.names


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"config": None}, "'config' in it is missing or of another type"),
        ({"categories": [1], "report": None}, "'categories' and 'report' in it are missing"),
        ({"report": {}}, "'report' in it is missing"),
        ({"model": {"a": [1]}}, "'model' in it is missing or of another type"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(run: Path, tmp_path: Path, change: dict[str, Any], what: str) -> None:
    state = {**checkpoint.load(run / "checkpoints" / "best.pth"), **change}
    checkpoint.save(
        {key: value for key, value in state.items() if value is not None}, tmp_path / "checkpoints/best.pth"
    )
    with pytest.raises(ModelError, match=what):
        export_run(tmp_path, tmp_path / "model")


@pytest.mark.parametrize("content", [{"model": [1]}, {"model": {"a": 1}}, {"model": {1: torch.ones(1)}}, {"model": {}}])
def test_a_model_that_holds_no_weights_is_one_error(output: Path, content: dict[str, Any]) -> None:
    (output / "model.safetensors").unlink()
    torch.save(content, output / "model.pth")
    with pytest.raises(ModelError, match=r"model\.pth (holds no weights|does not fit)"):
        load_export(output, CPU)


def test_both_files_of_weights_hold_the_checkpoint(run: Path, output: Path) -> None:
    state = checkpoint.load(run / "checkpoints" / "iter_0000002.pth")["model"]
    for found in (load_file(output / "model.safetensors"), checkpoint.load(output / "model.pth")["model"]):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("gone", ["model.pth", "model.safetensors"])
def test_one_file_of_weights_is_enough(run: Path, output: Path, gone: str) -> None:
    """Exports of before have model.pth alone."""
    (output / gone).unlink()
    state = checkpoint.load(run / "checkpoints" / "iter_0000002.pth")["model"]
    found = load_export(output, CPU).model.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_changed_byte_in_the_weights_is_seen(output: Path) -> None:
    content = bytearray((output / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (output / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged, or was changed.*delete README\.md"):
        load_export(output, CPU)
    (output / "README.md").unlink()
    load_export(output, CPU)
    (output / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors does not fit"):
        load_export(output, CPU)


def test_weights_that_share_memory_are_written_as_two(run: Path, tmp_path: Path) -> None:
    state = checkpoint.load(run / "checkpoints" / "best.pth")
    first, second = list(state["model"])[:2]
    state["model"][second] = state["model"][first].flatten()[:3]
    write_model(tmp_path, state, source="test")
    assert torch.equal(load_file(tmp_path / "model.safetensors")[second], state["model"][second])


def test_a_file_of_the_users_beside_an_older_export_is_not_written_over(run: Path, output: Path) -> None:
    """An export of before did not write model.safetensors: it is somebody else's."""
    readme = (output / "README.md").read_text()
    (output / "model.safetensors").unlink()
    text, _, sums = readme.partition(export_files._CHECKSUMS)
    lines = [line for line in sums.splitlines(keepends=True)[:-1] if "safetensors" not in line]
    content = (text + export_files._CHECKSUMS + "".join(lines)).encode()
    (output / "README.md").write_bytes(sealed(content, b" -->\n"))
    export_run(run, output, iteration=4)  # an older export itself is replaced
    assert (iteration_of(output), names(output)) == (4, FILES)
    (output / "README.md").write_bytes(sealed(content, b" -->\n"))
    for file in ("metrics.json", "model.pth"):
        (output / file).unlink()
    (output / "model.safetensors").write_text("mine")
    with pytest.raises(ModelError, match=r"model\.safetensors would be written over, and no export has written it"):
        export_run(run, output, iteration=4)
    assert (output / "model.safetensors").read_text() == "mine"


def write_fake(exported: ExportedModel, folder: Path) -> None:
    """Stands for the module of another format."""
    assert list(folder.iterdir()) == []
    (folder / "network.fake").write_text(", ".join(exported.categories.names))
    (folder / "README.md").write_text("Open `network.fake`.\n")


def test_another_format_has_its_own_files_and_our_card(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    for _ in range(2):
        export_run(run, output, write=write_fake)
        assert names(output) == ["README.md", "network.fake"]
        assert (output / "network.fake").read_text() == "disc, ring, cross"
        card = (output / "README.md").read_text()
        assert "## How to use it\n\nOpen `network.fake`." in card
        assert "rm.load_model" not in card


def test_one_format_does_not_replace_another(run: Path, output: Path) -> None:
    with pytest.raises(ModelError, match=r"an export of another format \(categories\.json.*another directory"):
        export_run(run, output, write=write_fake)
    assert names(output) == FILES
    assert iteration_of(output) == 2


def test_a_format_that_cannot_be_written_leaves_nothing(run: Path, tmp_path: Path) -> None:
    def fail(exported: ExportedModel, folder: Path) -> None:
        (folder / "half").touch()
        raise ModelError("it differs from the model")

    with pytest.raises(ModelError, match="it differs"):
        export_run(run, tmp_path / "model", write=fail)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b"", b'{"categories": 3}'])
def test_categories_of_another_type_are_one_error(output: Path, content: bytes) -> None:
    (output / "categories.json").write_bytes(content)
    with pytest.raises(RaytuneM2FError, match=r"categories\.json"):
        load_export(output, CPU)


def test_names_cannot_break_the_readme(run: Path, tmp_path: Path) -> None:
    state = checkpoint.load(run / "checkpoints" / "best.pth")
    state["categories"]["categories"][0]["name"] = "a | b\n\nc"
    checkpoint.save(state, tmp_path / "checkpoints/best.pth")
    output = tmp_path / os.fsdecode(b"not utf-8 \xff")
    for _ in range(2):
        export_run(tmp_path, output)
    assert "a \\| b c" in (output / "README.md").read_text()
    assert names(output) == FILES
