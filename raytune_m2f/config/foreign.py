"""Keys that detectron2 or Mask2Former know and that are not honoured here, with what to do instead.

A key stands for everything below it. They are refused, for an option that is silently ignored costs days.
"""

from __future__ import annotations

FOREIGN_KEYS: dict[str, str] = {
    "OUTPUT_DIR": "give the folder on the command line: --output of train, --study of tune",
    "CUDNN_BENCHMARK": "remove it",
    "FLOAT32_PRECISION": "remove it; SOLVER.AMP chooses mixed precision",
    "VIS_PERIOD": "remove it; `raytune-m2f predict` draws predictions",
    "GLOBAL": "remove it",
    "MODEL.DEVICE": "remove it; a GPU is used if there is one, and CUDA_VISIBLE_DEVICES= hides it",
    "MODEL.LOAD_PROPOSALS": "remove it; there are no proposals in Mask2Former",
    "MODEL.MASK_ON": "remove it; masks are always predicted",
    "MODEL.KEYPOINT_ON": "remove it; keypoints are not predicted",
    "MODEL.RESNETS.NUM_GROUPS": "remove it; choose a ResNet with MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "remove it; choose a ResNet with MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.RES4_DILATION": "remove it; no stage is dilated",
    "MODEL.RESNETS.RES5_DILATION": "remove it; no stage is dilated",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": "remove it; the backbone has no deformable convolution",
    "MODEL.RESNETS.DEFORM_MODULATED": "remove it; the backbone has no deformable convolution",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": "remove it; the backbone has no deformable convolution",
    "MODEL.FPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.PROPOSAL_GENERATOR": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ANCHOR_GENERATOR": "remove it; it belongs to another network than Mask2Former",
    "MODEL.RPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_HEADS": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_BOX_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_BOX_CASCADE_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_MASK_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_KEYPOINT_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.PANOPTIC_FPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.RETINANET": "remove it; it belongs to another network than Mask2Former",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": "remove it; it belongs to DeepLab",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": "remove it; instances need none",
    "SOLVER.MOMENTUM": "remove it; the optimizer is AdamW",
    "SOLVER.NESTEROV": "remove it; the optimizer is AdamW",
    "SOLVER.BASE_LR_END": "remove it; the cosine ends at 0",
    "SOLVER.NUM_DECAYS": "remove it; give the iterations in SOLVER.STEPS",
    "SOLVER.RESCALE_INTERVAL": "remove it; the warm-up lies within the schedule",
    "SOLVER.BIAS_LR_FACTOR": "remove it; biases have the learning rate of their layer",
    "SOLVER.WEIGHT_DECAY_BIAS": "remove it; biases have SOLVER.WEIGHT_DECAY, as in Mask2Former",
    "SOLVER.REFERENCE_WORLD_SIZE": "set SOLVER.LR_SCALING and SOLVER.REFERENCE_BATCH",
    "INPUT.MIN_SIZE_TRAIN": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.MAX_SIZE_TRAIN": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.CROP": "remove it; training images are cropped to INPUT.IMAGE_SIZE",
    "INPUT.MASK_FORMAT": "remove it; polygons and run lengths are both read",
    "DATASETS.PROPOSAL_FILES_TRAIN": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PROPOSAL_FILES_TEST": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "remove it; there are no proposals in Mask2Former",
    "DATALOADER.ASPECT_RATIO_GROUPING": "remove it; all training images have the size INPUT.IMAGE_SIZE",
    "DATALOADER.SAMPLER_TRAIN": "remove it; every image comes once per epoch",
    "DATALOADER.REPEAT_THRESHOLD": "remove it; every image comes once per epoch",
    "DATALOADER.REPEAT_SQRT": "remove it; every image comes once per epoch",
    "TEST.AUG": "remove it; there is no test-time augmentation",
    "TEST.EXPECTED_RESULTS": "remove it; compare metrics.json yourself",
    "TEST.KEYPOINT_OKS_SIGMAS": "remove it; keypoints are not predicted",
    "TEST.PRECISE_BN": "remove it; with small batches take MODEL.RESNETS.NORM GN or FrozenBN",
}


def foreign_advice(key: str) -> str | None:
    """What to do instead of a key that is detectron2's and not honoured; None if it is not detectron2's."""
    while key:
        if key in FOREIGN_KEYS:
            return FOREIGN_KEYS[key]
        key = key.rpartition(".")[0]
    return None
