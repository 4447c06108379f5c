"""A training step on a GPU: milliseconds, memory, kernels and synchronisations; ours, Mask2Former, transformers.

    PYTHONPATH=.:<detectron2>:<Mask2Former>:... python benchmarks/gpu.py [--pixels 256 1024] [--batch 8]

What cannot be imported is left out and named. Ours is measured in float32, in bfloat16, and compiled in bfloat16; the
others in float32 and bfloat16. `--device cpu` with small numbers tries the script itself. See README.md beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Run
from benchmarks.reference import CATEGORIES, Batch, Setting, build_criterion, build_ours, build_reference
from raytune_m2f.model import MultiTaskMaskFormer, RandomPoints, count_targets
from raytune_m2f.model.deformable_attention import sample_by_grid, sample_by_rows

WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


@dataclass
class Task:
    """What every variant is given."""

    setting: Setting
    device: torch.device
    bfloat16: bool
    compiled: bool = False

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def training(self, model: nn.Module, loss: Callable[[], Tensor]) -> Run:
        """Forward, backward, clipping, AdamW; the optimizer is the same for all, in one fused group."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            nn.utils.clip_grad_norm_(parameters, 0.01)
            optimizer.step()

        return run


def ours(task: Task) -> Run:
    model: MultiTaskMaskFormer = build_ours(task.setting).to(task.device).train()
    forward: Any = torch.compile(model, dynamic=False) if task.compiled else model
    batch, criterion = Batch.of(task.setting), build_criterion(task.setting)
    targets = batch.targets()
    counts = count_targets(targets, task.setting.queries, ()).float()
    seeds = range(task.setting.batch)

    def loss() -> Tensor:
        with task.autocast():
            outputs = forward(batch.images)
        moved = [target.to(task.device) for target in targets]
        return criterion.total(criterion(outputs, moved, RandomPoints(seeds, task.device), counts))

    return task.training(model, loss)


def mask2former(task: Task) -> Run:
    """The reference; without its compiled operator its deformable attention is its own fallback of plain torch."""
    model = build_reference(task.setting).to(task.device).train()
    inputs = Batch.of(task.setting).reference_inputs()

    def loss() -> Any:
        with task.autocast():
            return sum(model(inputs).values())

    return task.training(model, loss)


def transformers(task: Task) -> Run:
    """Hugging Face's implementation at the same size."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    s = task.setting
    config = Mask2FormerConfig(
        backbone_config=ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        num_labels=CATEGORIES,
        num_queries=s.queries,
        train_num_points=s.points,
        hidden_dim=s.hidden_dim,
        feature_size=s.hidden_dim,
        mask_feature_size=s.hidden_dim,
        dim_feedforward=s.dim_feedforward,
        encoder_layers=s.enc_layers,
        decoder_layers=s.dec_layers,
        dropout=0.0,
    )
    model = Mask2FormerForUniversalSegmentation(config).to(task.device).train()
    batch = Batch.of(s)
    pixels = torch.stack(batch.images).float().sub_(120).div_(58)

    def loss() -> Tensor:
        with task.autocast():
            result: Tensor = model(
                pixel_values=pixels.to(task.device),
                mask_labels=[target.masks.float().to(task.device) for target in batch.targets()],
                class_labels=[target.labels.to(task.device) for target in batch.targets()],
            ).loss
        return result.sum()

    return task.training(model, loss)


def measure(run: Run, device: torch.device, repeats: int) -> str:
    """Median time of a run after two to warm up; one more under the profiler."""
    gpu = device.type == "cuda"

    def timed() -> float:
        start = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    timed(), timed()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times = [timed() for _ in range(repeats)]
    memory = torch.cuda.max_memory_allocated() / 2**20 if gpu else float("nan")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        run()
    events = profiler.events() or []
    kernels = sum(str(event.device_type).endswith("CUDA") for event in events)
    waits = sum(event.name in WAITING for event in events)
    operations = sum(event.name.startswith("aten::") for event in events)
    return (
        f"{statistics.median(times):9.1f} ms (min {min(times):.1f})  {memory:7.0f} MiB  {kernels:6d} kernels  "
        f"{waits:4d} waits  {operations:6d} operations"
    )


def sampling(task: Task, repeats: int) -> Iterator[str]:
    """The forms of deformable attention's sums, forward and backward: what `deformable_sampling` should choose."""
    pixels, batch = task.setting.pixels, task.setting.batch
    shapes = [(pixels // s, pixels // s) for s in (32, 16, 8)]
    cells = sum(h * w for h, w in shapes)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, cells, 8, 32, generator=generator).to(task.device).requires_grad_()
    places = torch.rand(batch, cells, 2, 8, 3, 4, generator=generator).mul_(pixels // 32)
    places = places.to(task.device).requires_grad_()
    weights = torch.full((batch, cells, 8, 3, 4), 1 / 12, device=task.device).requires_grad_()
    forms: dict[str, Any] = {"grid_sample": sample_by_grid}
    if task.compiled:
        forms["grid_sample, compiled"] = torch.compile(sample_by_grid)
    if task.device.type == "cpu":
        forms["rows"] = sample_by_rows

    def running(form: Any) -> Run:
        def run() -> None:
            form(value, shapes, places, weights).sum().backward()

        return run

    for name, form in forms.items():
        yield f"  {name:32} {measure(running(form), task.device, repeats)}"


PROGRAMS: dict[str, Callable[[Task], Run]] = {"ours": ours, "Mask2Former": mask2former, "transformers": transformers}
MODES = {"float32": (False, False), "bfloat16": (True, False), "bfloat16, compiled": (True, True)}
"""Whether it is in bfloat16, and compiled, which is done to ours only."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--points", type=int, default=12544)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled, which takes minutes")
    parser.add_argument("--only", default="", help="variants whose name contains this, or 'sampling'")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu tries the script")
    failed: list[str] = []
    print(torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "torch", torch.__version__)
    for pixels in arguments.pixels:
        setting = replace(Setting(), pixels=pixels, batch=arguments.batch, points=arguments.points)
        print(f"{pixels} pixels, batch {arguments.batch}")
        for (program, build), (mode, (bfloat16, compiled)) in itertools.product(PROGRAMS.items(), MODES.items()):
            name = f"{program}, {mode}"
            if arguments.only not in name or (compiled and (arguments.eager or build is not ours)):
                continue
            try:
                said = measure(build(Task(setting, device, bfloat16, compiled)), device, arguments.repeats)
            except ImportError as error:
                said = f"left out: {error}"
            except Exception as error:  # the others are measured all the same
                traceback.print_exc()
                failed.append(name)
                said = f"failed: {error}"
            print(f"  {name:32} {said}", flush=True)
        if arguments.only in "sampling":
            task = Task(setting, device, bfloat16=False, compiled=not arguments.eager)
            print(*sampling(task, arguments.repeats), sep="\n", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
