"""The whole network: images in, outputs or instances out.

Shapes: B images, H W pixels of the padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import Backbone
from .inference import MASK2FORMER, Choice, Pack, instances_of_image, packed_instances_of_image
from .masks import Frame, Size
from .pixel_decoder import ENCODER_FFN_WIDTH, MSDeformAttnPixelDecoder
from .structures import Instances, PackedInstances
from .transformer_decoder import MultiTaskTransformerDecoder, Outputs

T = TypeVar("T")


class MaskFormerHead(nn.Module):
    """Pixel decoder and transformer decoder, under the reference's names."""

    def __init__(self, pixel_decoder: MSDeformAttnPixelDecoder, predictor: MultiTaskTransformerDecoder):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(self, features: dict[str, Tensor]) -> Outputs:
        """The backbone's maps res2 to res5 to the outputs of a batch."""
        mask_features, levels = self.pixel_decoder(features)
        outputs: Outputs = self.predictor(levels, mask_features)
        return outputs


class MultiTaskMaskFormer(nn.Module):
    """Mask2Former with any number of subcategory heads; with none it is Mask2Former.

    Args:
        backbone: gives res2 to res5.
        sem_seg_head: the decoders.
        pixel_mean, pixel_std: of the three RGB channels, in 0..255.
        size_divisibility: the batch is padded to a multiple of it.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        sem_seg_head: MaskFormerHead,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @property
    def num_queries(self) -> int:
        """Q, the number of queries."""
        return self.sem_seg_head.predictor.num_queries

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the subcategory heads."""
        return self.sem_seg_head.predictor.subcategories

    def forward(self, images: Sequence[Tensor]) -> Outputs:
        """Predict for a batch of (3, h, w) RGB images of any sizes, uint8 or float in 0..255."""
        outputs: Outputs = self.sem_seg_head(self.backbone(self.preprocess(images)))
        return outputs

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """(B, 3, H, W): normalised, padded with zeros at the right and at the bottom."""
        H, W = padded_size(images, self.size_divisibility)
        batch = self.pixel_mean.new_zeros(len(images), 3, H, W)
        for place, image in zip(batch, images, strict=True):
            pixels = image.to(batch.device, non_blocking=True)
            place[:, : image.shape[1], : image.shape[2]] = (pixels - self.pixel_mean) / self.pixel_std
        return batch

    @torch.no_grad()
    def predict(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[Size],
        choice: Choice = MASK2FORMER,
        *,
        max_instances: int,
    ) -> list[Instances]:
        """The instances of each image, with masks at `original_sizes` (height, width)."""
        outputs = self(images)
        return [
            instances_of_image(outputs, i, frame, choice, max_instances=max_instances)
            for i, frame in enumerate(self._frames(images, original_sizes))
        ]

    @torch.no_grad()
    def predict_packed(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[Size],
        pack: Pack[T],
        choices: Sequence[Choice] = (MASK2FORMER,),
        *,
        max_instances: int,
    ) -> list[list[PackedInstances[T]]]:
        """`predict` for each of several choices, with what `pack` makes of masks: see `packed_instances_of_image`."""
        return self.predict_frames(
            images, self._frames(images, original_sizes), pack, choices, max_instances=max_instances
        )

    @torch.no_grad()
    def predict_frames(
        self,
        images: Sequence[Tensor],
        frames: Sequence[Frame],
        pack: Pack[T],
        choices: Sequence[Choice] = (MASK2FORMER,),
        *,
        max_instances: int,
    ) -> list[list[PackedInstances[T]]]:
        """`predict_packed` of (3, h, w) windows of images, masks at the size of the whole image."""
        outputs = self(images)
        return [
            packed_instances_of_image(outputs, i, frame, choices, max_instances=max_instances, pack=pack)
            for i, frame in enumerate(frames)
        ]

    def _frames(self, images: Sequence[Tensor], original_sizes: Sequence[Size]) -> list[Frame]:
        """Of whole images."""
        padded = padded_size(images, self.size_divisibility)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [Frame(padded, size, size, original) for size, original in zip(sizes, original_sizes, strict=True)]


def padded_size(images: Sequence[Tensor], divisibility: int) -> Size:
    """The common size of a batch: the largest sides, rounded up."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    return -(-height // divisibility) * divisibility, -(-width // divisibility) * divisibility


def pad_masks(masks: Tensor, size: Size) -> Tensor:
    """(N, h, w) masks to (N, *size): padding is background."""
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))


def build_model(
    *,
    backbone: Backbone,
    num_classes: int,
    subcategories: Mapping[str, int],
    conv_dim: int = 256,
    mask_dim: int = 256,
    encoder_layers: int = 6,
    encoder_points: int = 4,
    encoder_feedforward: int = ENCODER_FFN_WIDTH,
    pixel_decoder_norm: bool = True,
    num_queries: int = 100,
    hidden_dim: int = 256,
    num_heads: int = 8,
    dim_feedforward: int = 2048,
    decoder_layers: int = 9,
    enforce_input_proj: bool = False,
    query_selection: bool = False,
    mask_prior: bool = False,
    pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
    pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    size_divisibility: int = 32,
) -> MultiTaskMaskFormer:
    """Build the network; the defaults are the paper's for COCO.

    Args:
        backbone: gives res2 to res5.
        num_classes: main categories, "no object" not counted.
        subcategories: classes of each subcategory head, "no object" not counted.
        num_heads: attention heads, of the pixel decoder too (as in the reference).
    """
    pixel_decoder = MSDeformAttnPixelDecoder(
        backbone.channels,
        conv_dim=conv_dim,
        mask_dim=mask_dim,
        num_layers=encoder_layers,
        num_heads=num_heads,
        num_points=encoder_points,
        ffn_width=encoder_feedforward,
        norm=pixel_decoder_norm,
    )
    predictor = MultiTaskTransformerDecoder(
        in_channels=conv_dim,
        num_classes=num_classes,
        subcategories=subcategories,
        num_queries=num_queries,
        hidden_dim=hidden_dim,
        mask_dim=mask_dim,
        num_heads=num_heads,
        dim_feedforward=dim_feedforward,
        num_layers=decoder_layers,
        enforce_input_proj=enforce_input_proj,
        query_selection=query_selection,
        mask_prior=mask_prior,
    )
    return MultiTaskMaskFormer(
        backbone,
        MaskFormerHead(pixel_decoder, predictor),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        size_divisibility=size_divisibility,
    )
