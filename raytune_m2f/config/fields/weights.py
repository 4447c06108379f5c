"""What a MODEL.WEIGHTS tells by its name alone: how it is reached, and which backbone it was trained for."""

from __future__ import annotations

import re

SCHEMES = ("http", "https", "detectron2", "torchvision")
"""What a MODEL.WEIGHTS with `://` may start with; everything else is a path."""

TORCHVISION = {
    **{f"ResNet{depth}": f"a ResNet-{depth}" for depth in (18, 34, 50, 101)},
    **{f"MobileNet_V3_{arch.title()}": f"a MobileNetV3-{arch}" for arch in ("small", "large")},
    **{f"Swin_{size}": f"a Swin-{size} with window 7" for size in ("T", "S", "B")},
}
"""torchvision's classes of weights, without `_Weights`, and the backbone of each."""

SWIN_SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "T",
    (96, (2, 2, 18, 2)): "S",
    (128, (2, 2, 18, 2)): "B",
    (192, (2, 2, 18, 2)): "L",
}
"""EMBED_DIM and DEPTHS of the published Swin Transformers (Liu et al. 2021, section 3.3)."""

EXAMPLE = "torchvision://ResNet50_Weights.IMAGENET1K_V2"

_TORCHVISION = re.compile(r"torchvision://(\w+)_Weights\.\w+")
_RESNET = re.compile(r"(?:^|/)R-(\d+)\.pkl$")  # detectron2's model zoo
_SWIN = re.compile(r"(?:^|/)swin_([tsbl])\w+_patch4_window(\d+)_\w+\.(?:pkl|pth)$")  # Swin's own repository


def source_problem(source: str) -> str:
    """Why no weights can be found under this name; empty if they may."""
    scheme, separator, _ = source.partition("://")
    if separator and scheme not in SCHEMES:
        return f"got {source!r}, allowed: a path, or an address with {', '.join(SCHEMES)}"
    if not source.startswith("torchvision://"):
        return ""
    found = _TORCHVISION.fullmatch(source)
    if found and found[1] in TORCHVISION:
        return ""
    names = ", ".join(f"{name}_Weights" for name in TORCHVISION)
    return f"got {source!r}, allowed: torchvision://<class>.<name> with {names}; for example {EXAMPLE}"


def backbone_of(source: str) -> str | None:
    """The backbone that these weights were trained for, as `TORCHVISION` has it; None if the name does not tell."""
    if found := _TORCHVISION.fullmatch(source):
        return TORCHVISION.get(found[1])
    if found := _RESNET.search(source):
        return f"a ResNet-{found[1]}"
    if found := _SWIN.search(source):
        return f"a Swin-{found[1].upper()} with window {found[2]}"
    return None


def swin_name(embed_dim: int, depths: tuple[int, ...], window_size: int) -> str:
    """What `backbone_of` calls a Swin Transformer of these sizes."""
    size = SWIN_SIZES.get((embed_dim, depths))
    kind = f"Swin-{size}" if size else f"Swin of {embed_dim} channels and {list(depths)} blocks"
    return f"a {kind} with window {window_size}"
