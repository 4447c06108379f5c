"""An exported model: a directory that is enough to evaluate and to predict, here or on another machine.

model.safetensors  the weights, in Mask2Former's names
model.pth          the same as {"model": state dict}, which Mask2Former loads
config.yaml        the configuration it was trained with
categories.json    names of the main categories and of every subcategory
metrics.json       the report of the exported checkpoint
README.md          the model card: what it is, how good it is, and the commands to use it

It is written here, verified by `export_check.py`, and read here. Earlier ones have model.pth alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raytune_m2f.config import Config, load_config
from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.config.paths import refuse_untrusted
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import Categories, resize_shortest_edge
from raytune_m2f.data.masks import Rle
from raytune_m2f.engines.detectron2.learner import build_any_model, predict_any, resize_any
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.evaluation import encode_masks
from raytune_m2f.export_card import Card, Origin
from raytune_m2f.export_files import (
    CATEGORIES,
    CONFIG,
    MODEL,
    README,
    WEIGHTS,
    is_whole,
    read_portable,
    read_weights,
    require_export,
    require_room,
    write_card,
    write_model,
)
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.learner.prediction import predict, predict_variants, predict_whole
from raytune_m2f.model import Instances, MultiTaskMaskFormer, PackedInstances
from raytune_m2f.storage.files import newest, replacing_together
from raytune_m2f.storage.folder import Folder
from raytune_m2f.storage.text import read_object
from raytune_m2f.training import checkpoint


@dataclass(frozen=True)
class ExportedModel:
    """A loaded export.

    Attributes:
        model: in evaluation mode, on the device it was loaded to.
        device: where the model is.
    """

    model: nn.Module
    config: Config
    categories: Categories
    device: torch.device

    def resized(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize a (H, W, 3) uint8 RGB image to the network's test size, as its engine does it: (3, h, w) uint8."""
        if isinstance(self.config, AnyModelConfig):
            return resize_any(self.config, image)
        return resize_shortest_edge(image, self.config.INPUT.MIN_SIZE_TEST, self.config.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """The instances of (3, h, w) RGB images as `resized` makes them, masks at `original_sizes` (height, width).

        Raises:
            ModelError: a network of detectron2's predicts no masks.
        """
        if not isinstance(self.model, MultiTaskMaskFormer):
            return predict_any(self.model, self.config, images, original_sizes)
        return predict_whole(self.model, self.config, images, original_sizes)

    @torch.no_grad()
    def predict_encoded(self, image: NDArray[np.uint8]) -> PackedInstances[Rle]:
        """The instances of a (H, W, 3) uint8 RGB image, masks at its size as run lengths.

        Masks are made one at a time, so that the memory does not grow with their number.
        """
        return self.predict_batch([self.resized(image)], [(image.shape[0], image.shape[1])])[0]

    @torch.no_grad()
    def predict_batch(
        self, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]
    ) -> list[PackedInstances[Rle]]:
        """`predict_encoded` of several images as `resized` makes them, in one batch."""
        if isinstance(self.model, MultiTaskMaskFormer):
            return predict(self.model, self.config, images, original_sizes)
        return [
            PackedInstances(found.scores, found.labels, encode_masks(found.masks), found.queries, found.subprobs)
            for found in predict_any(self.model, self.config, images, original_sizes)
        ]

    @property
    def ranking_section(self) -> MaskFormerTest:
        """MODEL.MASK_FORMER.TEST. Raises ModelError for a network of detectron2's, which has no such section."""
        if isinstance(self.config, AnyModelConfig):
            raise ModelError(
                f"rankings and their sieves are of our own network; this model is detectron2's "
                f"{self.config.MODEL.META_ARCHITECTURE}, which has its own keys for what it predicts."
            )
        return self.config.MODEL.MASK_FORMER.TEST

    @torch.no_grad()
    def predict_variants(self, image: NDArray[np.uint8], tests: Sequence[MaskFormerTest]) -> list[PackedInstances[Rle]]:
        """`predict_encoded` by each of several sections like `ranking_section`, which the network must have."""
        assert isinstance(self.model, MultiTaskMaskFormer)
        height, width = image.shape[:2]
        (found,) = predict_variants(self.model, self.config, [self.resized(image)], [(height, width)], tests)
        return found


Verify = Callable[[Path, Mapping[str, Any], str], tuple[dict[str, Any], dict[str, tuple[float, float]]]]
"""Of `export_check.Check`: a directory, its report and where it is from, to its scores and what was compared."""
Write = Callable[[ExportedModel, Path], None]
"""Fills an empty folder with a model in another format; see `raytune_m2f.formats`."""


def export_run(
    run: str | PathLike[str],
    output: Path,
    *,
    iteration: int | None = None,
    origin: Origin | None = None,
    verify: Verify | None = None,
    write: Write | None = None,
    trust: bool = False,
    others: Callable[[], Iterable[str]] | None = None,
) -> dict[str, Any]:
    """Export the best checkpoint of a trial or a training run, or another one.

    Args:
        run: its directory, with checkpoints/best.pth, or its address on a store.
        output: the directory to write; an export that is there already is replaced, other files beside it stay.
        iteration: export checkpoints/iter_<iteration>.pth instead.
        origin: what the model card says of the study.
        verify: looks at the files before any is in its place; None: the model card says that nobody has.
        write: another format, in place of the files of a native export.
        trust: whether Python files that the configuration names (DATASETS.IMPORT) may run, to verify and for another
            format.
        others: gives lines that say what else can be exported if the checkpoint is damaged, beside the run's own.

    Returns:
        The report of the exported checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged; the message offers others.
        ModelError: there is no such checkpoint, or `output` holds other files, or an export that was changed since.
        ConfigError: the configuration names Python files and is not trusted.
        VerificationError, InputError: of `verify` and `write`; nothing is left in `output` then.
    """
    name = checkpoint.BEST if iteration is None else checkpoint.iteration_file(Path(), iteration).name
    source = Folder.at(run)
    source.pull(f"checkpoints/{name}")
    folder = source.path / "checkpoints"
    try:
        state = read_portable(folder / name)
    except (CheckpointError, ModelError) as error:
        raise type(error)("\n  ".join([str(error), *_others(folder, name), *(others() if others else ())])) from error
    report: dict[str, Any] = state["report"]
    if not trust and (verify is not None or write is not None):  # both use the configuration
        refuse_untrusted(state["config"], str(run))
    with replacing_together(output) as new:
        earlier = require_export(output)
        native = new if write is None else new / ".native"
        native.mkdir(exist_ok=True)
        write_model(native, state, source=str(run))
        how_to_use = None
        if write is not None:
            how_to_use = _write_format(write, load_export(native, torch.device("cpu"), trust=trust), new)
        files = sorted(path.name for path in new.iterdir() if path.is_file())
        require_room(output, earlier, set(files))  # before the evaluation, which may take long
        checked: dict[str, Any] | None = None
        compared: dict[str, tuple[float, float]] = {}
        if verify is not None:
            checked, compared = verify(native, report, source.address_of(f"checkpoints/{name}"))
        if native != new:
            shutil.rmtree(native)
        card = Card(
            output=output,
            files=files,
            origin=origin or Origin(str(run)),
            config=Config.from_dict(state["config"], source=str(run), only_shown=True),
            categories=Categories.from_dict(state["categories"], source=str(run)),
            report=report,
            checked=checked,
            compared=compared,
            how_to_use=how_to_use,
        )
        write_card(new, card.text())
    return report


def _write_format(write: Write, exported: ExportedModel, folder: Path) -> str | None:
    """Write another format; returns its README.md, if it has one, as that of the folder is the model card."""
    own = folder / ".format"
    own.mkdir()
    write(exported, own)
    text = (own / README).read_text(encoding="utf-8") if (own / README).exists() else None
    (own / README).unlink(missing_ok=True)
    for file in own.iterdir():
        file.rename(folder / file.name)
    own.rmdir()
    return text


def _others(folder: Path, damaged: str) -> Iterator[str]:
    """Which other checkpoints of a run can be exported; those that are only on a store are not checked."""
    for path in checkpoint.newest_first(folder):
        if path.name != damaged and is_whole(str(path)):
            yield f"{path.name} beside it is whole: export it by `--iteration {int(path.stem.removeprefix('iter_'))}`."


def load_export(folder: Path, device: torch.device | None = None, *, trust: bool = False) -> ExportedModel:
    """Load an exported model from its directory.

    Args:
        folder: the directory that `export_run` wrote.
        device: by default the GPU if there is one.
        trust: whether Python files that the configuration names (DATASETS.IMPORT) may run.

    Raises:
        ModelError: a file is missing or does not fit the others.
        ConfigError: the configuration is wrong, or names Python files and is not trusted.
    """
    files = {name: newest(folder, name) for name in (CONFIG, CATEGORIES)}
    has_weights = any(newest(folder, name).is_file() for name in (WEIGHTS, MODEL))
    missing = [WEIGHTS] if not has_weights else []
    missing += [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise ModelError(
            f"--model {folder} is no exported model: it has no {', '.join(missing)}. Make one with "
            "`raytune-m2f export STUDY --output DIR`."
        )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(files[CONFIG], trust=trust)
    content = read_object(files[CATEGORIES], ModelError)
    categories = Categories.from_dict(content, source=str(folder / CATEGORIES))
    theirs = isinstance(config, AnyModelConfig)
    model: nn.Module = build_any_model(config) if theirs else build_network(config, categories)
    try:
        model.load_state_dict(read_weights(folder))
    except (CheckpointError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])  # of what may be hundreds
        name = WEIGHTS if newest(folder, WEIGHTS).is_file() else MODEL
        raise ModelError(f"{folder / name} does not fit {folder / CONFIG} and {CATEGORIES}: {reason}") from error
    return ExportedModel(model.to(device).eval(), config, categories, device)
