"""The files of an export: read the checkpoint, write them, and detect whether somebody has changed them since."""

from __future__ import annotations

import json
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import Categories
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.files import checksum_of, is_ours, is_temporary, sealed
from raytune_m2f.training import checkpoint

MODEL, CONFIG, CATEGORIES, METRICS = "model.pth", "config.yaml", "categories.json", "metrics.json"
README = "README.md"

_TEXT = """# {title}

A {kind}, exported by raytune_m2f from `{source}` at iteration {iteration}.

| | |
|---|---|
{rows}
| learning rate (effective), batch | {lr:.3g}, {batch} |

    raytune-m2f predict --model {output} --output predictions IMAGE...
    raytune-m2f evaluate --model {output} --annotations FILE --images DIR

In Python:

    import raytune_m2f as rm
    model = rm.load_model({folder!r})
    print(model.predict("image.jpg"))

`model.pth` holds the weights in {names}'s names, `config.yaml` the whole configuration, `metrics.json` all metrics.

"""
_CHECKSUMS = "<!-- By these checksums the next export knows that nobody has changed its files, and may replace them:\n"


def read_portable(path: Path) -> checkpoint.Checkpoint:
    """Read a checkpoint to export.

    Returns:
        Its content, with the keys `checkpoint.PORTABLE`.

    Raises:
        CheckpointError: the file is damaged.
        ModelError: it is not there, or is no checkpoint of an evaluated model.
    """
    if not path.is_file():
        raise ModelError(f"{path.parents[1]} has no checkpoints/{path.name}: nothing was evaluated or kept there yet.")
    state = checkpoint.load(path)
    wrong = [key for key in checkpoint.PORTABLE if not isinstance(state.get(key), dict)]
    if not wrong:
        wrong += [] if are_weights(state["model"]) else ["model"]
        wrong += [] if isinstance(state["report"].get("iteration"), int) else ["report"]
    if wrong:
        raise ModelError(
            f"{path} is no checkpoint of an evaluated model: {' and '.join(map(repr, wrong))} in it "
            f"{'is' if len(wrong) == 1 else 'are'} missing or of another type."
        )
    return state


def is_whole(weights: str) -> bool:
    """Whether a checkpoint can be exported; one on a store is not read and assumed to be whole."""
    if is_address(weights):
        return True
    try:
        read_portable(Path(weights))
    except (CheckpointError, ModelError):
        return False
    return True


def are_weights(content: object) -> bool:
    """Whether `content` is a state dict."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def write_export(folder: Path, state: checkpoint.Checkpoint, *, source: str, output: Path) -> None:
    """Write the files of an export, README.md last, which holds the others' checksums.

    Args:
        folder: an empty one.
        state: of `read_portable`.
        source, output: the run and the export, for README.md.

    Raises:
        ConfigError, DatasetError: the checkpoint's configuration or categories cannot be used.
    """
    config = Config.from_dict(state["config"], source=source, only_shown=True)
    categories = Categories.from_dict(state["categories"], source=source)
    checkpoint.save({"model": _versioned(state["model"])}, folder / MODEL)
    (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    (folder / CATEGORIES).write_text(json.dumps(state["categories"], indent=2) + "\n", encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(state["report"], indent=2) + "\n", encoding="utf-8")
    sums = "".join(f"{checksum_of(file)}  {file.name}\n" for file in sorted(folder.iterdir()))
    text = _readme(source, output, config, categories, state["report"]) + _CHECKSUMS + sums
    (folder / README).write_bytes(sealed(text.encode("utf-8", "backslashreplace"), b" -->\n"))


def require_export(folder: Path) -> None:
    """Refuse a folder unless it is empty or holds an unchanged export; other files beside that may stay.

    Raises:
        ModelError: there are other files, or one of the export's was changed.
    """
    written = _checksums(folder / README)
    if not written and any(not is_temporary(path) for path in folder.iterdir()):
        raise ModelError(
            f"--output {folder} exists and is no export, or its {README} was changed: give a new or an empty directory."
        )
    for name, checksum in written.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and (not path.is_file() or checksum_of(path) != checksum)):
            raise ModelError(
                f"--output {folder}: {name} was changed since it was exported: move it away, or give another directory."
            )


def _checksums(readme: Path) -> dict[str, str]:
    """The files of an export by the names in its README.md; none if that is not as we wrote it."""
    if readme.is_symlink() or not is_ours(readme):
        return {}
    lines = readme.read_text(encoding="utf-8").partition(_CHECKSUMS)[2].splitlines()[:-1]  # the last is the seal
    return {name: checksum for checksum, name in map(str.split, lines)}


def _readme(source: str, output: Path, config: Config, categories: Categories, report: dict[str, Any]) -> str:
    measured = [name for name in ("segm/AP", "bbox/AP") if isinstance(report.get(name), float)][:1]
    rows = {name.replace("/", " "): f"{report[name]:.2f}" for name in measured}
    rows["categories"] = ", ".join(categories.names)
    rows |= {head: ", ".join(classes) for head, classes in categories.subcategories.items()}
    theirs = isinstance(config, AnyModelConfig)
    if not theirs:
        rows["queries"] = str(config.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES)
    return _TEXT.format(
        title=output.resolve().name,
        source=source,
        output=shlex.quote(str(output)),
        folder=str(output),
        iteration=report["iteration"],
        kind=f"{config.MODEL.META_ARCHITECTURE} of detectron2" if theirs else "multitask Mask2Former",
        names="detectron2" if theirs else "Mask2Former",
        rows="\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()),
        lr=effective_lr(config),
        batch=config.SOLVER.IMS_PER_BATCH,
    )


def _cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _versioned(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the version of Mask2Former's names, without which Mask2Former takes them for older ones and renames them."""
    versioned = OrderedDict(state)
    versioned._metadata = {"sem_seg_head": {"version": 2}}  # type: ignore[attr-defined]
    return versioned
