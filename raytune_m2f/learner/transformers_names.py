"""The names that Hugging Face transformers gives to the tensors of its Mask2Former, and ours, both ways.

Ours are Mask2Former's own. Theirs are those of the published checkpoints, which every version of transformers reads;
version 5 calls a Swin's parts otherwise, and its first checkpoints did too: both are read, neither is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]

THEIRS = re.compile(r"^(?:model\.)?(?:pixel_level_module|transformer_module)\.")
"""How most of their names begin, and none of anybody else's."""

_OTHER_SPELLINGS = (
    (re.compile(r"^(?:model\.)?(?=(?:pixel_level_module|transformer_module)\.)"), "model."),
    (re.compile(r"(?<=\.pixel_level_module\.encoder\.)(?:swin|model)\."), ""),
    (re.compile(r"(?<=\.hidden_states_norms\.)(\d)(?=\.)"), lambda found: f"stage{int(found[1]) + 1}"),
    (re.compile(r"(?<=\.attention\.)relative_position_bias\.(?=relative)"), "self."),
    (re.compile(r"(?<=\.attention\.)q_proj\."), "self.query."),
    (re.compile(r"(?<=\.attention\.)k_proj\."), "self.key."),
    (re.compile(r"(?<=\.attention\.)v_proj\."), "self.value."),
    (re.compile(r"(?<=\.attention\.)o_proj\."), "output.dense."),
    (re.compile(r"(\.blocks\.\d+\.)mlp\.fc1\."), r"\1intermediate.dense."),
    (re.compile(r"(\.blocks\.\d+\.)mlp\.fc2\."), r"\1output.dense."),
)
"""What stands for the same in other versions of transformers, and the published name."""

UNUSED = re.compile(r"^model\.pixel_level_module\.encoder\.layernorm\.")
"""Of a Swin in version 5, which has it and computes nothing by it; the published checkpoints lack it."""


def _names() -> Iterator[tuple[str, str]]:
    """How a name begins in ours and in theirs; # is a number, the same in both, and what follows is the same too."""
    encoder, decoder = "model.pixel_level_module.encoder.", "model.pixel_level_module.decoder."
    ours, theirs = "backbone.layers.#.", f"{encoder}encoder.layers.#."
    yield "backbone.patch_embed.proj.", f"{encoder}embeddings.patch_embeddings.projection."
    yield "backbone.patch_embed.norm.", f"{encoder}embeddings.norm."
    for own, their in (
        ("blocks.#.norm1.", "blocks.#.layernorm_before."),
        ("blocks.#.norm2.", "blocks.#.layernorm_after."),
        ("blocks.#.attn.relative_position_", "blocks.#.attention.self.relative_position_"),
        ("blocks.#.attn.proj.", "blocks.#.attention.output.dense."),
        ("blocks.#.mlp.fc1.", "blocks.#.intermediate.dense."),
        ("blocks.#.mlp.fc2.", "blocks.#.output.dense."),
        ("downsample.", "downsample."),
    ):
        yield ours + own, theirs + their
    for stage in range(4):
        yield f"backbone.norm{stage}.", f"{encoder}hidden_states_norms.stage{stage + 1}."
        ours, theirs = f"backbone.res{stage + 2}.#.", f"{encoder}encoder.stages.{stage}.layers.#."
        parts = [("shortcut", "shortcut"), *((f"conv{i + 1}", f"layer.{i}") for i in range(3))]
        for own, their in parts:
            yield f"{ours}{own}.norm.", f"{theirs}{their}.normalization."
            yield f"{ours}{own}.", f"{theirs}{their}.convolution."
    yield "backbone.stem.conv1.norm.", f"{encoder}embedder.embedder.normalization."
    yield "backbone.stem.conv1.", f"{encoder}embedder.embedder.convolution."

    pixel = "sem_seg_head.pixel_decoder."
    ours, theirs = f"{pixel}transformer.encoder.layers.#.", f"{decoder}encoder.layers.#."
    yield f"{pixel}input_proj.", f"{decoder}input_projections."
    yield f"{pixel}transformer.level_embed", f"{decoder}level_embed"
    yield f"{ours}self_attn.", f"{theirs}self_attn."
    yield f"{ours}norm1.", f"{theirs}self_attn_layer_norm."
    yield f"{ours}linear#.", f"{theirs}fc#."
    yield f"{ours}norm2.", f"{theirs}final_layer_norm."
    for part in ("adapter_1", "layer_1"):
        yield f"{pixel}{part}.norm.", f"{decoder}{part}.1."
        yield f"{pixel}{part}.", f"{decoder}{part}.0."
    yield f"{pixel}mask_features.", f"{decoder}mask_projection."

    ours, theirs = "sem_seg_head.predictor.", "model.transformer_module."
    layer = f"{theirs}decoder.layers.#."
    yield f"{ours}query_feat.", f"{theirs}queries_features."
    yield f"{ours}query_embed.", f"{theirs}queries_embedder."
    yield f"{ours}level_embed.", f"{theirs}level_embed."
    yield f"{ours}input_proj.", f"{theirs}input_projections."
    yield f"{ours}transformer_self_attention_layers.#.self_attn.out_proj.", f"{layer}self_attn.out_proj."
    yield f"{ours}transformer_self_attention_layers.#.norm.", f"{layer}self_attn_layer_norm."
    yield f"{ours}transformer_cross_attention_layers.#.multihead_attn.", f"{layer}cross_attn."
    yield f"{ours}transformer_cross_attention_layers.#.norm.", f"{layer}cross_attn_layer_norm."
    yield f"{ours}transformer_ffn_layers.#.linear#.", f"{layer}fc#."
    yield f"{ours}transformer_ffn_layers.#.norm.", f"{layer}final_layer_norm."
    yield f"{ours}decoder_norm.", f"{theirs}decoder.layernorm."
    yield f"{ours}mask_embed.layers.#.", f"{theirs}decoder.mask_predictor.mask_embedder.#.0."
    yield f"{ours}class_embed.", "class_predictor."


_FUSED = (
    (
        "backbone.layers.#.blocks.#.attn.qkv.",
        "model.pixel_level_module.encoder.encoder.layers.#.blocks.#.attention.self.{}.",
        ("query", "key", "value"),
    ),
    (
        "sem_seg_head.predictor.transformer_self_attention_layers.#.self_attn.in_proj_",
        "model.transformer_module.decoder.layers.#.self_attn.{}.",
        ("q_proj", "k_proj", "v_proj"),
    ),
)
"""One tensor of ours that is three of theirs, one under the other."""


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile("^" + re.escape(beginning).replace(r"\#", r"(\d+)"))


def _numbered(beginning: str) -> str:
    """As what a match of `_pattern` becomes."""
    parts = beginning.split("#")
    return parts[0] + "".join(f"\\g<{number}>{part}" for number, part in enumerate(parts[1:], 1))


_TO_THEIRS = [(_pattern(ours), _numbered(theirs)) for ours, theirs in _names()]
_TO_OURS = [(_pattern(theirs), _numbered(ours)) for ours, theirs in _names()]
_SPLIT = [(_pattern(ours), [_numbered(theirs.format(part)) for part in parts]) for ours, theirs, parts in _FUSED]
_MERGE = [
    (_pattern(theirs.format(part)), _numbered(ours), number)
    for ours, theirs, parts in _FUSED
    for number, part in enumerate(parts)
]


def from_transformers(state: State) -> dict[str, Tensor]:
    """A Mask2Former of transformers' under our names; what we have no name for keeps its own.

    Tensors that are one of ours are put together; what a network computes nothing by is left out.
    """
    renamed: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        published = name
        for pattern, spelling in _OTHER_SPELLINGS:
            published = pattern.sub(spelling, published)
        if UNUSED.match(published):
            continue
        for pattern, ours, number in _MERGE:
            merged, found = pattern.subn(ours, published)
            if found:
                thirds.setdefault(merged, {})[number] = value
                break
        else:
            renamed[_renamed(published, _TO_OURS) or name] = value
    for name, parts in thirds.items():
        if len(parts) == 3:  # else it is missing, and is named so
            renamed[name] = torch.cat([parts[number] for number in range(3)])
    return renamed


def to_transformers(state: State) -> dict[str, Tensor]:
    """Our network's tensors under the published names of transformers, but those of subcategory heads.

    Raises:
        KeyError: transformers has no place for a tensor.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, theirs in _SPLIT:
            if pattern.search(name):
                names = (pattern.sub(part, name) for part in theirs)
                renamed |= zip(names, value.chunk(3), strict=True)
                break
        else:
            found = _renamed(name, _TO_THEIRS)
            if found is None:
                raise KeyError(name)
            renamed[found] = value
    return renamed


def _renamed(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, replacement in table:
        renamed, found = pattern.subn(replacement, name)
        if found:
            return renamed
    return None
