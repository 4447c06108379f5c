"""Out of memory: a finer split of the batch learns the same, on one worker and on two."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raytune_m2f.config import Config, load_config
from raytune_m2f.errors import OutOfMemoryError, TrainingError
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.workers import train_on_workers
from raytune_m2f.model import MultiTaskMaskFormer
from raytune_m2f.training import checkpoint, memory
from raytune_m2f.training.reports import SEGM_AP, TrialContext, read_reports
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import train_trial

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its folder is not on the workers' path
REAL = Stepper.backward
CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"


class Fits:
    """A network for which more than `images` at once are too many; with `late`, only from the second micro-batch on."""

    def __init__(self, images: int, *, late: bool = False) -> None:
        self.images = images
        self.late = late
        self.sizes: list[int] = []

    def backward(self, stepper: Stepper, samples: Sequence[Any], *others: Any) -> dict[str, torch.Tensor]:
        self.sizes.append(len(samples))
        if len(samples) > self.images and (not self.late or self.sizes.count(len(samples)) > 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 3 MiB free")
        return REAL(stepper, samples, *others)

    def __call__(self, config: Config, context: TrialContext) -> None:
        """As the function of a `TrialJob`: the last worker has the small memory."""
        if context.rank == context.world_size - 1:
            Stepper.backward = lambda *args: self.backward(*args)  # type: ignore[method-assign]
        try:
            train_trial(config, context)
        finally:
            Stepper.backward = REAL  # type: ignore[method-assign]


@pytest.fixture
def slow_learner(tiny_config: Config) -> Config:
    # Adam's first steps are the sign of the gradient: at a high rate they amplify float noise where it is nearly 0
    return tiny_config.with_values({"SOLVER.BASE_LR": 1e-5, "SOLVER.MAX_ITER": 2, "TEST.EVAL_PERIOD": 1})


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = checkpoint.load(output_dir / "checkpoints/iter_0000002.pth")["model"]
    return model


def assert_equal_weights(ours: Path, theirs: Path, tolerance: float = 0.0) -> None:
    expected = weights(theirs)
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("error", "memory_is_missing"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError(CPU_ALLOCATOR), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_what_is_out_of_memory(error: Exception, memory_is_missing: bool) -> None:
    assert memory.is_out_of_memory(error) is memory_is_missing


def test_the_real_allocators_error_is_known() -> None:
    with pytest.raises(OutOfMemoryError, match="out of memory here"), memory.oom_as_error("here"):
        torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize("late", [False, True])
def test_halved_micro_batches_learn_the_same(
    slow_learner: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    train_trial(slow_learner.with_values({"SOLVER.MICRO_BATCH": 1}), TrialContext(tmp_path / "small"))
    fits = Fits(1, late=late)
    config = slow_learner.with_values({"SOLVER.MICRO_BATCH": 2}) if late else slow_learner
    with caplog.at_level(logging.WARNING, "raytune_m2f"):
        fits(config, TrialContext(tmp_path / "halved"))
    assert fits.sizes == ([2, 2] if late else [4, 2]) + [1] * 8
    assert "out of memory with 2 images at once (CUDA out of memory. Tried to allocate 2.00 GiB): 1" in caplog.text
    assert [report["micro_batch"] for report in read_reports(tmp_path / "halved")] == [1, 1]
    assert_equal_weights(tmp_path / "halved", tmp_path / "small")


def test_a_resumed_trial_starts_with_the_halved_micro_batch(slow_learner: Config, tmp_path: Path) -> None:
    fits = Fits(2)
    fits(slow_learner, TrialContext(tmp_path, report=lambda report: True))
    assert load_config(tmp_path / "config.yaml").SOLVER.MICRO_BATCH == 0  # what the user gave
    fits(slow_learner, TrialContext(tmp_path))
    assert fits.sizes == [4, 2, 2, 2, 2]


def test_a_note_that_is_no_number_is_refused(slow_learner: Config, tmp_path: Path) -> None:
    (tmp_path / memory.NOTE).write_text("two")
    with pytest.raises(TrainingError, match=r"\.micro_batch holds 'two', not a micro-batch \[images\]: delete it"):
        train_trial(slow_learner, TrialContext(tmp_path))


def test_a_single_image_that_does_not_fit_is_an_error_that_says_what_to_lower(
    slow_learner: Config, tmp_path: Path
) -> None:
    with pytest.raises(OutOfMemoryError, match=r"a single image: CUDA out of .*\. Lower INPUT\.IMAGE_SIZE"):
        Fits(0)(slow_learner, TrialContext(tmp_path))


def test_out_of_memory_in_evaluation_says_so(
    slow_learner: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(CPU_ALLOCATOR)

    monkeypatch.setattr(MultiTaskMaskFormer, "predict_packed", predict)
    with pytest.raises(OutOfMemoryError, match=r"out of memory in evaluation: .*Lower TEST\.IMS_PER_BATCH"):
        train_trial(slow_learner, TrialContext(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:::ray")
def test_one_worker_of_two_halves_for_both_and_uses_no_retry_up(slow_learner: Config, tmp_path: Path) -> None:
    config = slow_learner.with_values({"SOLVER.IMS_PER_BATCH": 8})
    train_trial(config.with_values({"SOLVER.MICRO_BATCH": 1}), TrialContext(tmp_path / "small"))
    job = TrialJob(config, (SEGM_AP,), workers=(2, 2), crash_retries=0, function=Fits(1))
    train_on_workers(job, Place.at(tmp_path / "halved"))
    reports = read_reports(tmp_path / "halved")
    assert [report["micro_batch"] for report in reports] == [1, 1]
    assert_equal_weights(tmp_path / "halved", tmp_path / "small", tolerance=1e-6)
    assert "out of memory with 2 images at once" in (tmp_path / "halved/log_1.txt").read_text()
