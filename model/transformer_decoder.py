"""The masked-attention transformer decoder with one classifier per task (section 3.2.1, equations 2 and 3).

Shapes: B images, Q queries, C channels (HIDDEN_DIM), D mask channels, K categories, K_k classes of head k,
L supervised outputs (the learnable queries' and one after each layer), S cells of a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MLP, Conv2d, Linear, linear, sine_position_encoding, xavier_fill, xavier_uniform_matrices
from .query_selection import MaskPrior, ObjectMaps, QuerySelection, Selected, coordinate_features

NUM_LEVELS = 3
MAIN = "class"
"""What the main category is called among the heads: no subcategory may be."""


@dataclass(frozen=True)
class Outputs:
    """What the network predicts for a batch; the last of the L outputs is the one to use.

    Attributes:
        pred_logits: (L, B, Q, K + 1), the last class is "no object".
        pred_sublogits: for each subcategory head (L, B, Q, K_k + 1), the last class is "no object".
        mask_embed: (L, B, Q, D).
        mask_features: (B, D, H/4, W/4). A mask is the product of the two; built only where it is needed.
            With a mask prior both have the coefficients and coordinates of `query_selection` as further channels.
        maps: what the queries were chosen from; None if they are learnable.
        distinct: (B, Q) bool, False for queries that only repeat another, which count for nothing; None if all count.
    """

    pred_logits: Tensor
    pred_sublogits: dict[str, Tensor]
    mask_embed: Tensor
    mask_features: Tensor
    maps: ObjectMaps | None = None
    distinct: Tensor | None = None

    @property
    def pred_masks(self) -> Tensor:
        """(B, Q, H/4, W/4): the mask logits of the last output; after autocast the two may differ in their types."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embed[-1].float(), self.mask_features.float())


class Attention(nn.MultiheadAttention):
    """torch's parameters, with one boolean mask shared by all heads instead of a float one for each."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__(channels, num_heads, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Attend where `allowed` (B, Q, S) is True; (B, Q, C), (B, S, C), (B, S, C) -> (B, Q, C)."""
        inputs = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (
            linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, weight, bias in inputs
        )
        mask = None if allowed is None else allowed[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return linear(y.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)


class CrossAttentionLayer(nn.Module):
    """Equation 2: queries attend to the cells inside their own predicted mask."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.multihead_attn = Attention(channels, num_heads)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """(B, Q, C) queries, (B, S, C) keys and values, (B, Q, S) bool cells that each query sees, to (B, Q, C)."""
        y: Tensor = self.norm(x + self.multihead_attn(x + query_pos, key, value, allowed))
        return y


class SelfAttentionLayer(nn.Module):
    """Queries attend to each other."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.self_attn = Attention(channels, num_heads)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor, query_pos: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, Q, C) queries, their position encoding, and (B, 1, Q) bool which are seen, to (B, Q, C)."""
        placed = x + query_pos
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x, allowed))
        return y


class FFNLayer(nn.Module):
    """The feed-forward network of a decoder layer."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear1 = Linear(channels, width, relu=True)
        self.linear2 = Linear(width, channels)
        self.norm = nn.LayerNorm(channels)
        xavier_uniform_matrices(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) to (B, Q, C)."""
        y: Tensor = self.norm(x + self.linear2(self.linear1(x)))
        return y


class MultiTaskTransformerDecoder(nn.Module):
    """Learnable queries become instances: a category, one class per subcategory head, and a mask.

    Args:
        in_channels: channels of the pixel decoder's maps.
        num_classes: K.
        subcategories: number of classes K_k of each subcategory head; `<name>_embed` is its classifier.
        num_queries: Q.
        hidden_dim: C.
        mask_dim: D.
        num_heads: attention heads.
        dim_feedforward: width of the feed-forward networks.
        num_layers: decoder layers (DEC_LAYERS - 1).
        enforce_input_proj: project the maps even if `in_channels` equals `hidden_dim`.
        query_selection: queries are peaks of a heat map, not learnable.
        mask_prior: a mask begins as a blob at its query's peak; with `query_selection` only.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        subcategories: Mapping[str, int],
        num_queries: int,
        hidden_dim: int,
        mask_dim: int,
        num_heads: int,
        dim_feedforward: int,
        num_layers: int,
        enforce_input_proj: bool,
        query_selection: bool = False,
        mask_prior: bool = False,
    ):
        super().__init__()
        self.num_queries = num_queries
        self.num_layers = num_layers
        self.subcategories = tuple(subcategories)
        layers = range(num_layers)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(hidden_dim, dim_feedforward) for _ in layers)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_selection = (
            QuerySelection(mask_dim=mask_dim, in_channels=in_channels, hidden_dim=hidden_dim, num_queries=num_queries)
            if query_selection
            else None
        )
        self.mask_prior = MaskPrior(hidden_dim) if mask_prior else None
        if not query_selection:
            self.query_feat = nn.Embedding(num_queries, hidden_dim)
            self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, hidden_dim)
        self.input_proj = nn.ModuleList()
        for _ in range(NUM_LEVELS):
            project = in_channels != hidden_dim or enforce_input_proj
            conv = Conv2d(in_channels, hidden_dim, 1)
            xavier_fill(conv)
            self.input_proj.append(conv if project else nn.Identity())
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        for name, classes in subcategories.items():
            self.add_module(f"{name}_embed", Linear(hidden_dim, classes + 1))
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @property
    def classifiers(self) -> dict[str, Linear]:
        """The classifier of the main category (`MAIN`) and of each subcategory head; each has a class "no object"."""
        heads = {name: cast(Linear, self.get_submodule(f"{name}_embed")) for name in self.subcategories}
        return {MAIN: self.class_embed, **heads}

    def forward(self, levels: list[Tensor], mask_features: Tensor) -> Outputs:
        """Decode.

        Args:
            levels: three maps (B, in_channels, h, w) from 1/32 to 1/8.
            mask_features: (B, D, H/4, W/4).
        """
        B = mask_features.shape[0]  # `len` would be one number in an exported graph
        keys, values = zip(*(self._keys_and_values(i, x) for i, x in enumerate(levels)), strict=True)
        selected = self.query_selection(levels[-1], mask_features) if self.query_selection else None
        if selected is None:
            x, query_pos = (e.weight.expand(B, -1, -1) for e in (self.query_feat, self.query_embed))
        else:
            x, query_pos = selected.content, selected.position
        if self.mask_prior:
            height, width = mask_features.shape[-2:]
            places = coordinate_features(height, width, mask_features.device)
            mask_features = torch.cat((mask_features, places.expand(B, -1, -1, -1)), 1)
        # resizing is linear, so the masks' resized logits are the products with resized features; channels last once,
        # or on a CPU every call makes that copy for itself
        features = mask_features.detach().contiguous(memory_format=torch.channels_last)
        resized = [
            F.interpolate(features, size=x.shape[-2:], mode="bilinear", align_corners=False).flatten(2) for x in levels
        ]
        seen = None if selected is None else selected.distinct[:, None]
        decoded = [self.decoder_norm(x)]
        embeds = [self._mask_embed(decoded[-1], selected)]
        for i in range(self.num_layers):
            level = i % NUM_LEVELS
            allowed = attention_mask(embeds[-1].detach(), resized[level], exact=self.mask_prior is not None)
            x = self.transformer_cross_attention_layers[i](x, query_pos, keys[level], values[level], allowed)
            x = self.transformer_self_attention_layers[i](x, query_pos, seen)
            x = self.transformer_ffn_layers[i](x)
            decoded.append(self.decoder_norm(x))
            embeds.append(self._mask_embed(decoded[-1], selected))
        outputs = self._predict(torch.stack(decoded), torch.stack(embeds), mask_features)
        return outputs if selected is None else replace(outputs, maps=selected.maps, distinct=selected.distinct)

    def _mask_embed(self, decoded: Tensor, selected: Selected | None) -> Tensor:
        """(B, Q, C) to (B, Q, D), with a prior's coefficients behind."""
        embed: Tensor = self.mask_embed(decoded)
        if self.mask_prior is None or selected is None:
            return embed
        return torch.cat((embed.float(), self.mask_prior(decoded, selected.blobs)), -1)

    def _keys_and_values(self, level: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, C) each: the cells of a level with and without their position encoding."""
        value = self.input_proj[level](x).flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        position = sine_position_encoding(x.shape[2], x.shape[3], value.shape[2], x.device)
        return value + position.flatten(1).T, value

    def _predict(self, decoded: Tensor, mask_embed: Tensor, mask_features: Tensor) -> Outputs:
        """Every classifier reads the decoder's output for this image, in every layer."""
        logits = {name: classifier(decoded) for name, classifier in self.classifiers.items()}
        return Outputs(logits.pop(MAIN), logits, mask_embed, mask_features)


def attention_mask(mask_embed: Tensor, features: Tensor, *, exact: bool = False) -> Tensor:
    """Equation 3: a query may look where its mask has probability 0.5 or more; everywhere if that is nowhere.

    Args:
        mask_embed: (B, Q, D).
        features: (B, D, S), the mask features at the level's size.
        exact: in float32, whatever autocast says: a polynomial of coordinates is a difference of large numbers.

    Returns:
        (B, Q, S) bool, True where attention is allowed.
    """
    with torch.autocast(features.device.type, enabled=False) if exact else nullcontext():
        allowed = torch.einsum("bqd,bds->bqs", mask_embed, features) >= 0
    return allowed | ~allowed.any(-1, keepdim=True)
