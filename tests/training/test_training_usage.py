"""Memory and latency, alone."""

from __future__ import annotations

import math
import socket

import pytest
import torch

from raytune_m2f.training.memory import Usage, peak_memory, share_gpu, usage_report

CPU = torch.device("cpu")


def test_the_workers_as_one() -> None:
    first = Usage(images=3, seconds=[9.0, 0.1, 0.3], memory_gb=1.0, host="a")
    second = Usage(images=2, seconds=[8.0, 0.2], memory_gb=2.5, host="b")
    assert usage_report([first, second]) == {"images": 5, "latency_ms": 200.0, "memory_gb": 2.5, "host": "a"}


def test_a_single_batch_is_not_left_out_and_a_worker_may_have_none() -> None:
    report = usage_report([Usage(images=2, seconds=[0.4]), Usage()])
    assert report["latency_ms"] == 400.0
    assert report["host"] == socket.gethostname()


def test_a_prediction_is_measured() -> None:
    usage = Usage()
    for images in (2, 1):
        with usage.predicting(images, CPU):
            pass
    assert usage.images == 3
    assert len(usage.seconds) == 2
    assert all(value >= 0 for value in usage.seconds)
    assert 0.01 < usage.memory_gb == peak_memory(CPU) < math.inf


@pytest.mark.gpu
def test_a_gpus_memory_is_torchs() -> None:
    kept = torch.zeros(2**28, dtype=torch.uint8, device="cuda")
    assert peak_memory(kept.device) >= 0.25


@pytest.mark.parametrize(("device", "gpus", "expected"), [("cuda", 0.5, [0.475]), ("cuda", 1.0, []), ("cpu", 0.5, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: float, expected: list[float]
) -> None:
    limits: list[float] = []

    def limit(fraction: float, index: int | None) -> None:
        assert index is None or isinstance(index, int)  # torch refuses a device without an index
        limits.append(fraction)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    share_gpu(torch.device(device), gpus)
    assert limits == [pytest.approx(limit) for limit in expected]


@pytest.mark.gpu
def test_more_than_the_share_is_out_of_memory() -> None:
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    share_gpu(device, 0.25)
    try:
        torch.empty(int(0.2 * total), dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
