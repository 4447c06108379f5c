"""The mean of each loss since the last report, in the room of one step's losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LossMeans:
    """Running sums over steps.

    Attributes:
        steps: that were added.
        sums: of each loss over them.
    """

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Mapping[str, float]) -> None:
        self.steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means, with which the next sums begin."""
        means = {name: value / self.steps for name, value in self.sums.items()}
        self.steps, self.sums = 0, {}
        return means

    def state(self) -> dict[str, Any]:
        """For a checkpoint; plain values."""
        return {"steps": self.steps, "sums": dict(self.sums)}

    @classmethod
    def restored(cls, state: Any) -> LossMeans:
        """What `state` gave, or the losses of every step, which earlier checkpoints hold."""
        if isinstance(state, Mapping):
            return cls(int(state["steps"]), dict(state["sums"]))
        means = cls()
        for losses in state:
            means.add(losses)
        return means
