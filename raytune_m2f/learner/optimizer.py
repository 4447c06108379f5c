"""AdamW in Mask2Former's groups, and detectron2's learning rate schedules."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from raytune_m2f.config import Config

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_POSITIONS = ("relative_position_bias_table", "absolute_pos_embed")  # Swin's


def effective_lr(config: Config) -> float:
    """The learning rate of this global batch: BASE_LR is meant for REFERENCE_BATCH images.

    `linear` follows Goyal et al. 2017, `sqrt` is usual for Adam; `none` takes BASE_LR as it is.
    """
    solver = config.SOLVER
    ratio = solver.IMS_PER_BATCH / solver.REFERENCE_BATCH
    return solver.BASE_LR * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[solver.LR_SCALING]


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.AdamW:
    """AdamW: the backbone learns slower; norms, embeddings and Swin's positions do not decay.

    Source: Mask2Former's train_net.py. Parameters with the same learning rate and decay share a group, at most six in
    all, so that the fused step is few calls.
    """
    solver, lr = config.SOLVER, effective_lr(config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, module in model.named_modules():
        decay = solver.WEIGHT_DECAY
        if isinstance(module, _NORMS):
            decay = solver.WEIGHT_DECAY_NORM
        elif isinstance(module, nn.Embedding):
            decay = solver.WEIGHT_DECAY_EMBED
        factor = solver.BACKBONE_MULTIPLIER if name.split(".")[0] == "backbone" else 1.0
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                groups[lr * factor, 0.0 if kind in _POSITIONS else decay].append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()],
        fused=True,
    )


def schedule_factor(config: Config, iteration: int) -> float:
    """LR at an iteration relative to the start, as detectron2's WarmupMultiStepLR, WarmupCosineLR, WarmupPolyLR."""
    solver = config.SOLVER
    progress = min(iteration / solver.MAX_ITER, 1.0)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        factor = solver.GAMMA ** bisect_right(solver.STEPS, iteration)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        factor = max((1 - progress) ** solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING)
    return factor * _warmup_factor(config, iteration)


def _warmup_factor(config: Config, iteration: int) -> float:
    solver = config.SOLVER
    if iteration >= solver.WARMUP_ITERS:
        return 1.0
    if solver.WARMUP_METHOD == "constant":
        return solver.WARMUP_FACTOR
    done = iteration / solver.WARMUP_ITERS
    return solver.WARMUP_FACTOR * (1 - done) + done
