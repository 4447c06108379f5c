"""The multitask Mask2Former in a `train_net.py` of your own, with detectron2's or Mask2Former's Trainer.

Three lines (docs/detectron2.md has them in their places):

    add_config(cfg)                                                         # after get_cfg(), before merge_from_file
    register_datasets(cfg)                                                  # after all files are merged
    build_detection_train_loader(cfg, mapper=MultiTaskMapper(cfg))          # in Trainer.build_train_loader

MODEL.META_ARCHITECTURE: MultiTaskMaskFormer is then in detectron2's registry, and `train_net.py --config-file` reads a
configuration that raytune_m2f tuned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raytune_m2f.config.any_model import detectron2_engine
from raytune_m2f.data import load_coco

detectron2_engine()  # without detectron2, the error that has the install command

from raytune_m2f.engines.detectron2.library import (  # noqa: E402
    MultiTaskMapper,
    MultiTaskMaskFormer,
    add_config,
    register_dataset,
)

__all__ = ["MultiTaskMapper", "MultiTaskMaskFormer", "add_config", "register_coco", "register_datasets"]


def register_datasets(cfg: Any) -> None:
    """Put the datasets of DATASETS.REGISTER into detectron2's catalogs, with DATASETS.SUBCATEGORIES as fields.

    Raises:
        DatasetError: an annotation file is wrong.
    """
    for name, files in cfg.DATASETS.REGISTER.items():
        register_coco(name, files["annotations"], files["images"], cfg.DATASETS.SUBCATEGORIES)


def register_coco(name: str, annotations: str | Path, images: str | Path, heads: tuple[str, ...] = ()) -> None:
    """`register_coco_instances` with subcategories: COCO annotations, checked, under a name in the catalogs.

    Args:
        heads: integer fields of an annotation that are subcategories.

    Raises:
        DatasetError: the annotation file is wrong.
    """
    register_dataset(load_coco(name, Path(annotations), Path(images), tuple(heads)))
