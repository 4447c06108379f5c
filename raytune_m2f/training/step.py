"""One optimizer step: micro-batches in, one update of the weights out.

The global batch is split over workers and, within a worker, into micro-batches. All losses are divided by sums over
the *global* batch, so the split does not change the gradient (batch norm, if there is any, does see the split).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytune_m2f.config import Config
from raytune_m2f.errors import NonFiniteLossError, OutOfMemoryError
from raytune_m2f.learner.base import Learner
from raytune_m2f.learner.vitals import EVERY
from raytune_m2f.model import NonFiniteError
from raytune_m2f.training.average import WeightAverage
from raytune_m2f.training.memory import (
    ADVICE,
    StartAgain,
    first_line,
    is_out_of_memory,
    note_micro_batch,
    noted_micro_batch,
    oom_as_error,
)
from raytune_m2f.training.reports import TrialContext

log = logging.getLogger(__name__)


@dataclass
class Stepper:
    """Everything that a step changes.

    Attributes:
        learner: the bare network, and what it learns by.
        network: the network, wrapped for several workers.
        forward: the network's forward pass, compiled if the configuration says so.
        micro_batch: images that this worker takes at once; halved where memory does not suffice.
        base_lrs, schedule: the learning rate of each of the optimizer's groups, and the factor on it in an iteration.
        average: of the weights, where MODEL_EMA says so.
        lr: of the latest step; of several groups the highest.
    """

    learner: Learner
    network: nn.Module
    forward: Callable[[Any], Any]
    optimizer: torch.optim.Optimizer
    base_lrs: list[float]
    schedule: Callable[[int], float]
    scaler: torch.amp.GradScaler
    config: Config
    context: TrialContext
    micro_batch: int
    average: WeightAverage | None = None
    lr: float = 0.0

    @classmethod
    def build(cls, config: Config, learner: Learner, context: TrialContext) -> Stepper:
        """Optimizer and schedule for a network that is on its device."""
        optimizer = learner.optimizer(config)
        network = learner.model
        if context.world_size > 1:
            ids = [context.device] if context.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=ids)
        share = -(-config.SOLVER.IMS_PER_BATCH // context.world_size)
        micro_batch = min(config.SOLVER.MICRO_BATCH or share, share, noted_micro_batch(context.output_dir) or share)
        half = config.SOLVER.AMP.ENABLED and config.SOLVER.AMP.PRECISION == "float16"
        return cls(
            learner=learner,
            network=network,
            forward=torch.compile(network, dynamic=False) if config.MODEL.COMPILE else network,
            optimizer=optimizer,
            base_lrs=[group["lr"] for group in optimizer.param_groups],
            schedule=learner.schedule(config),
            scaler=torch.amp.GradScaler(context.device.type, enabled=half and context.device.type == "cuda"),
            config=config,
            context=context,
            micro_batch=micro_batch,
            average=WeightAverage(learner.model, config.MODEL_EMA) if config.MODEL_EMA.ENABLED else None,
        )

    @property
    def model(self) -> nn.Module:
        """The bare network."""
        return self.learner.model

    def step(self, samples: Sequence[Any], iteration: int) -> dict[str, float]:
        """Learn from this worker's part of a global batch.

        Returns:
            every loss term of the global batch, weighted and summed over all outputs, and "loss", their sum.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            OutOfMemoryError: one image at a time is too much.
            StartAgain: out of memory, but smaller micro-batches may do, and there are several workers.
        """
        report: dict[str, float] | None = None
        while report is None:
            reason = ""
            try:
                report = self._gradients(samples, iteration)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            if report is None:  # only here: while it is handled, the error holds what filled the memory
                self._halve(reason)
        if not math.isfinite(report["loss"]):
            raise NonFiniteLossError(_diagnosis(self.config, iteration, f"the loss is {report['loss']}"))
        with oom_as_error("in the optimizer's step"):
            self.update(iteration)
        return report

    def _gradients(self, samples: Sequence[Any], iteration: int) -> dict[str, float]:
        """Gradients of the global batch, and its losses; the weights stay."""
        self.network.train()
        if self.learner.vitals is not None:
            self.learner.vitals.take()  # what a step that ran out of memory has left
            self.learner.vitals.awake = iteration % EVERY == 0
        counts = all_reduce_sum(self.learner.count(samples), self.context.device)
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for start in range(0, len(samples), self.micro_batch):
            part = samples[start : start + self.micro_batch]
            place = (iteration, self.context.rank, start // self.micro_batch)
            with self._averaged_gradients(last=start + self.micro_batch >= len(samples)):
                for name, value in self.backward(part, counts, place).items():
                    terms[name] = terms.get(name, 0.0) + value
        values = self._summed(torch.stack(list(terms.values())).float())
        return {"loss": sum(values), **dict(zip(terms, values, strict=True))}

    def _summed(self, terms: Tensor) -> list[float]:
        """Loss terms of all workers, and beside them, in the same message, what was seen of the heads."""
        vitals = self.learner.vitals
        seen = None if vitals is None else vitals.take()
        if vitals is None or seen is None:
            return all_reduce_sum(terms, self.context.device).tolist()
        values = all_reduce_sum(torch.cat((terms, seen)), self.context.device).cpu()
        vitals.add(values[len(terms) :])
        return values[: len(terms)].tolist()

    def _halve(self, reason: str) -> None:
        """Take half as many images at once, from now on and after a restart."""
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.context.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro_batch == 1:
            raise OutOfMemoryError(f"out of memory with a single image: {reason}. {ADVICE}")
        before, self.micro_batch = self.micro_batch, self.micro_batch // 2
        note_micro_batch(self.context.output_dir, self.micro_batch)
        log.warning(
            "out of memory with %d images at once (%s): %d from now on; the global batch and the learning rate stay.",
            before,
            reason,
            self.micro_batch,
        )
        if self.context.world_size > 1:  # the others wait for this worker's gradients
            raise StartAgain(f"out of memory with {before} images at once; {self.micro_batch} from now on")

    def _averaged_gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """They are averaged over workers with the last micro-batch only."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            return self.network.no_sync()
        return contextlib.nullcontext()

    def backward(self, samples: Sequence[Any], counts: Tensor, place: tuple[int, ...]) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch (see `Learner.losses`); returns its loss terms."""
        try:
            total, terms = self.learner.losses(self.forward, samples, counts, self.autocast(), place)
        except NonFiniteError as error:
            raise NonFiniteLossError(_diagnosis(self.config, place[0], str(error))) from error
        # averaging over workers divides by their number; the losses are shares of a sum
        self.scaler.scale(total * self.context.world_size).backward()
        return {name: value.detach() for name, value in terms.items()}

    def autocast(self) -> torch.autocast:
        """Mixed precision for the network on a GPU; losses, matching and the CPU stay in float32."""
        amp = self.config.SOLVER.AMP
        precision = torch.bfloat16 if amp.PRECISION == "bfloat16" else torch.float16
        device = self.context.device.type
        return torch.autocast(device, dtype=precision, enabled=amp.ENABLED and device == "cuda")

    def update(self, iteration: int) -> None:
        """Step with the gradients that are there, clipped, at the learning rates of this iteration."""
        self._set_rates(iteration)
        self.scaler.unscale_(self.optimizer)
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(iteration)

    def _clip(self) -> None:
        """Clip the whole gradient, and note what share of it is each head's."""
        vitals, most = self.learner.vitals, self.learner.max_norm
        watched = vitals is not None and vitals.awake
        if most is None and not watched:
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if vitals is not None and watched:
            vitals.add_gradients(norm)
        if most is not None:
            nn.utils.clip_grads_with_norm_(parameters, most, norm)

    def _set_rates(self, iteration: int) -> None:
        factor = self.schedule(iteration)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        self.lr = max(self.base_lrs) * factor

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts the network is what is evaluated and kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs to continue bit by bit.

        "model" is what is evaluated; where that is an average, "learned" holds what differs in what is learned.
        """
        own = self.model.state_dict()
        with self.evaluated():
            kept = self.model.state_dict()
        state = {"model": kept, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.average is not None:
            state["learned"] = {n: value for n, value in own.items() if value.data_ptr() != kept[n].data_ptr()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint; learning rates, weight decays and the schedule are the configuration's own.

        The checkpoint may be one of a trial with other values of these: its moments are taken by parameter (the groups
        depend on the values), and the schedule continues from its iteration.
        """
        self.model.load_state_dict(state["model"])
        if learned := state.get("learned"):  # the others are an average
            if self.average is not None:
                self.average.begin()
            self.model.load_state_dict({**state["model"], **learned})
        own = {**state["config"], "DATASETS": self.config.to_dict()["DATASETS"]}  # its modules are not asked
        theirs = self.learner.optimizer(Config.from_dict(own, source="checkpoint"))
        theirs.load_state_dict(state["optimizer"])
        self.optimizer.state.update(theirs.state)
        self._set_rates(state["iteration"] - 1)
        self.scaler.load_state_dict(state["scaler"])


def _diagnosis(config: Config, iteration: int, what: str) -> str:
    return (
        f"iteration {iteration}: {what}. Often the learning rate is too high "
        f"(SOLVER.BASE_LR = {config.SOLVER.BASE_LR:g}, SOLVER.LR_SCALING = {config.SOLVER.LR_SCALING})."
    )


@dataclass
class LossMeans:
    """The mean of each loss since the last report, in the room of one step's losses."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, losses: Mapping[str, float]) -> None:
        """Add those of one step."""
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


# What the workers of a trial tell each other


def all_reduce_sum(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum of `tensor` over all workers, on the CPU. NCCL can only add what lies on its GPU, hence `device`."""
    if not dist.is_initialized():
        return tensor
    moved = tensor.to(device)
    dist.all_reduce(moved)
    return moved.cpu()


def share_buffers(network: nn.Module) -> None:
    """Give all workers rank 0's statistics of batch norm; since the last step each has those of its own images."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.broadcast(buffer, src=0)


def all_gather(items: list[Any]) -> list[list[Any]]:
    """The lists of all workers, on every worker."""
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return gathered
