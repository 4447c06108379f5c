"""TensorBoard: an event file in the run's directory; `tensorboard --logdir STUDY/trials` shows all trials."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from raytune_m2f.loggers.open import LoggedRun


class TensorBoardLogger:
    """Writes scalars. Of a run that goes on, TensorBoard drops what an earlier file has from that iteration on."""

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        earlier = any(run.folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(run.folder), purge_step=run.start if earlier else None)
        self._start = run.start if earlier else -1
        if not earlier:
            text = yaml.safe_dump(dict(run.config), sort_keys=False)
            self._writer.add_text("config", f"```yaml\n{text}```", 0)

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        if iteration < self._start:
            return
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, iteration)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


def open_logger(run: LoggedRun) -> TensorBoardLogger:
    return TensorBoardLogger(run)
