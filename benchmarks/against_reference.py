"""Ours against Mask2Former itself: one process, one thread, CPU time, in turn; same weights, images and points.

    PYTHONPATH=.:<site>:<detectron2>:<Mask2Former> python benchmarks/against_reference.py [NAME ...] [--pairs N]

Without names everything is measured; see README.md beside this file for the path, and the dated notes for results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Run, alternate, peak_memory
from benchmarks.reference import CATEGORIES, SETTINGS, Batch, Setting, build_criterion, build_ours, build_pair
from raytune_m2f.config import Config
from raytune_m2f.data import TrainSample
from raytune_m2f.learner.mask_former import MaskFormerLearner
from raytune_m2f.learner.optimizer import build_optimizer
from raytune_m2f.model import MultiTaskMaskFormer, RandomPoints
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.step import Stepper

CPU = torch.device("cpu")


def reference_optimizer(model: nn.Module) -> Callable[[], None]:
    """Mask2Former's train_net.py: AdamW with a group for each parameter, after clipping the whole model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 1e-4, "weight_decay": 0.05} for p in parameters], lr=1e-4)

    def step() -> None:
        nn.utils.clip_grad_norm_(parameters, 0.01)
        optimizer.step()

    return step


def reference_step(reference: Any, batch: Batch) -> Run:
    update, inputs = reference_optimizer(reference), batch.reference_inputs()
    reference.train()

    def run() -> None:
        reference.zero_grad(set_to_none=True)
        sum(reference(inputs).values()).backward()
        update()

    return run


def our_config(setting: Setting) -> Config:
    values = {
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": setting.points,
        "SOLVER.IMS_PER_BATCH": setting.batch,
        "DATASETS.TRAIN": [],
        "DATASETS.TEST": [],
    }
    return Config().with_values(values)


def our_step(ours: MultiTaskMaskFormer, batch: Batch, setting: Setting, heads: dict[str, int] | None = None) -> Run:
    """The very step of a trial."""
    config = our_config(setting)
    stepper = Stepper.build(config, MaskFormerLearner(config, ours), TrialContext(Path()))
    targets = batch.targets(heads)
    samples = [
        TrainSample(image, target, i) for i, (image, target) in enumerate(zip(batch.images, targets, strict=True))
    ]
    return lambda: stepper.step(samples, 0)


def step(name: str, pairs: int) -> str:
    """A whole training step: forward, matching, loss, backward, clipping, AdamW."""
    setting = SETTINGS[name]
    reference, ours = build_pair(setting)
    batch = Batch.of(setting)
    theirs, mine = reference_step(reference, batch), our_step(ours, batch, setting)
    return compare(theirs, mine, pairs)


def decoder(name: str, pairs: int) -> str:
    """Transformer decoder, matching and loss, forward and backward to the pixel decoder's maps."""
    setting = SETTINGS[name]
    reference, ours = build_pair(setting)
    batch = Batch.of(setting)
    inputs, targets, criterion = batch.reference_inputs(), batch.targets(), build_criterion(setting)
    generator = torch.Generator().manual_seed(0)
    side, shape = setting.pixels, (setting.batch, setting.hidden_dim)
    maps = [torch.randn(*shape, side // s, side // s, generator=generator, requires_grad=True) for s in (32, 16, 8, 4)]
    from detectron2.structures import ImageList

    images = ImageList.from_tensors(list(torch.zeros(setting.batch, 3, side, side)))

    def theirs() -> None:
        outputs = reference.sem_seg_head.predictor(maps[:3], maps[3])
        truth = reference.prepare_targets([x["instances"] for x in inputs], images)
        losses = reference.criterion(outputs, truth)
        weight = reference.criterion.weight_dict
        sum(value * weight[key] for key, value in losses.items() if key in weight).backward()
        clear()

    def mine() -> None:
        outputs = ours.sem_seg_head.predictor(maps[:3], maps[3])
        points = RandomPoints(range(setting.batch), CPU)
        criterion.total(criterion(outputs, targets, points)).backward()
        clear()

    def clear() -> None:
        for tensor in (*maps, *reference.parameters(), *ours.parameters()):
            tensor.grad = None

    return compare(theirs, mine, pairs)


def optimizer(name: str, pairs: int) -> str:
    """Clipping and AdamW on gradients that are there."""
    reference, ours = build_pair(SETTINGS[name])
    update, adamw = reference_optimizer(reference), build_optimizer(our_config(SETTINGS[name]), ours)
    for parameter in (*reference.parameters(), *ours.parameters()):
        parameter.grad = torch.randn_like(parameter)

    def mine() -> None:
        nn.utils.clip_grad_norm_(ours.parameters(), 0.01)
        adamw.step()

    return compare(update, mine, pairs)


class Given(nn.Module):
    """Stands for a part of the network whose result is there already."""

    num_classes = CATEGORIES

    def __init__(self, result: Any):
        super().__init__()
        self.result = result

    def forward(self, *inputs: Tensor) -> Any:
        return self.result


def inference(name: str, pairs: int) -> str:
    """From the network's outputs to instances with masks at twice the input's size; the masks are compared."""
    setting = SETTINGS[name]
    reference, ours = build_pair(setting)
    batch = Batch.of(setting)
    reference.eval(), ours.eval()
    with torch.no_grad():
        outputs = ours(batch.images)
    given = {"pred_logits": outputs.pred_logits[-1], "pred_masks": outputs.pred_masks}
    reference.backbone, reference.sem_seg_head = Given(None), Given(given)
    ours.backbone, ours.sem_seg_head = Given(None), Given(outputs)  # type: ignore[assignment]
    inputs = batch.reference_inputs()

    @torch.no_grad()
    def theirs() -> Any:
        return reference(inputs)

    def mine() -> Any:
        return ours.predict(batch.images, batch.originals, max_instances=100)

    result = compare(theirs, mine, pairs)
    different = 0
    for want, got in zip(theirs(), mine(), strict=True):
        order = want["instances"].scores.argsort(descending=True, stable=True)
        different += int((want["instances"].pred_masks[order].bool() != got.masks).sum())
    return f"{result}; {different} mask pixels differ"


def heads(name: str, pairs: int) -> str:
    """A training step without (left) and with two subcategory heads (right)."""
    setting, two = SETTINGS[name], {"ripeness": 4, "damage": 3}
    batch = Batch.of(setting)
    without = our_step(build_ours(setting), batch, setting)
    return compare(without, our_step(build_ours(setting, two), batch, setting, two), pairs, memory=False)


def compare(theirs: Run, mine: Run, pairs: int, *, memory: bool = True) -> str:
    peaks = f"   peak {peak_memory(theirs):5.0f} -> {peak_memory(mine):5.0f} MiB" if memory else ""
    return f"{alternate(theirs, mine, pairs)}{peaks}"


BENCHMARKS: dict[str, tuple[Callable[[str, int], str], str, int]] = {
    "step-tiny": (step, "tiny", 15),
    "step-base": (step, "base", 5),
    "step-512": (step, "512", 3),
    "decoder-base": (decoder, "base", 5),
    "decoder-1024": (decoder, "1024", 3),
    "optimizer-tiny": (optimizer, "tiny", 15),
    "optimizer-base": (optimizer, "base", 7),
    "inference-base": (inference, "base", 5),
    "inference-512": (inference, "512", 3),
    "heads-tiny": (heads, "tiny", 15),
    "heads-base": (heads, "base", 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--pairs", type=int, help="how often each is run; by default 3 to 15")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if len(arguments.names) == 1:
        function, setting, pairs = BENCHMARKS[arguments.names[0]]
        torch.set_num_threads(1)
        print(f"{arguments.names[0]:15} {function(setting, arguments.pairs or pairs)}", flush=True)
        return
    print(f"torch {torch.__version__}, one thread; CPU time of the reference, of ours, reference / ours", flush=True)
    options = ["--pairs", str(arguments.pairs)] if arguments.pairs else []
    for name in arguments.names or BENCHMARKS:  # each in a fresh process, or its memory could not be told
        subprocess.run([sys.executable, "-W", "ignore", __file__, name, *options], check=True)


if __name__ == "__main__":
    main()
