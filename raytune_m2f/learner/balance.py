"""Weights of classes in the cross-entropy, so that rare ones are not forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytune_m2f.config.fields.model import Balance, MaskFormer
from raytune_m2f.data.summary import ClassCounts
from raytune_m2f.model import MAIN


def is_balanced(options: MaskFormer) -> bool:
    """Whether any class has a weight of its own."""
    return not options.CLASS_BALANCE == options.SUBCATEGORY_BALANCE == "none"


def class_weights(options: MaskFormer, instances: ClassCounts) -> dict[str, Tensor]:
    """`SetCriterion.class_weights` as the configuration asks for them; heads whose classes weigh the same have none."""
    schemes: list[tuple[str, Balance, Sequence[int]]] = [(MAIN, options.CLASS_BALANCE, instances.categories)]
    schemes += [(head, options.SUBCATEGORY_BALANCE, counts) for head, counts in instances.subcategories.items()]
    return {
        head: balanced_weights(scheme, counts, options.BALANCE_BETA)
        for head, scheme, counts in schemes
        if scheme != "none"
    }


def balanced_weights(scheme: Balance, instances: Sequence[int], beta: float) -> Tensor:
    """(C,) float32: the weight of each class, an instance of the training set weighing 1 on average.

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples (2019, equation 11) weigh by the inverse of
    E = (1 - beta^n) / (1 - beta), and make the weights' sum the number of classes; with the mean over instances the
    head's share of the whole loss, and its relation to "no object", stay as they were. The inverse square root of the
    number is that of Mahajan et al. 2018 (section 2.2).

    Args:
        instances: n of each class; a class without any counts as if it had one, and weighs as such.
    """
    n = torch.tensor(instances, dtype=torch.float64)
    at_least_one = n.clamp(min=1)
    if scheme == "effective_number":
        weights = (1 - beta) / (1 - beta**at_least_one)
    else:
        weights = at_least_one.rsqrt() if scheme == "inverse_sqrt" else torch.ones_like(n)
    mean = (n * weights).sum() / n.sum().clamp(min=1)
    return (weights / mean if mean > 0 else weights).float()
