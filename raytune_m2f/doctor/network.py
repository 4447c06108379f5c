"""The network before its first step: losses, gradients, outputs that depend on the image, matching.

Nothing is trained; what is looked at are two windows of training images, and the network that a training begins with.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytune_m2f.data.masks import decode
from raytune_m2f.doctor import losses
from raytune_m2f.doctor.bench import CODE, Bench, Found, called, check_network, logits_of, term_of
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.errors import first_of
from raytune_m2f.learner.weights import OUTPUT_NORM, PREDICTOR
from raytune_m2f.model import MAIN, NonFiniteError, Outputs, padded_size
from raytune_m2f.model.inference import ranking_scores

NOISE = 1e-4
"""Two sums in another order may differ by so much, in units of the spread of what is compared."""
APART = 0.01
"""From here on they are different numbers, whatever the device."""
OF_ANOTHER = 0.3
"""An image's predictions differ by so much of what two images differ by: something of another image is in them."""
AGREEING = 0.95
"""Share of instances that must be the same where nothing but the order of sums differs."""
SCHEDULED = 40
"""Parts of a training where the schedule is looked at."""
MOST_FACTOR = 1.0
"""A schedule of detectron2's never raises the rate above the configured one."""
SHOWN = 6
"""Names in a message."""


@check_network("model/finite", "are all weights and predictions numbers?")
def finite(check: Check, bench: Bench) -> Iterator[Finding]:
    """Weights first, then the first module whose output is not finite though its weights are."""
    named = [*bench.model.named_parameters(), *bench.model.named_buffers()]
    bad = [name for name, value in named if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        source = bench.subject.config.MODEL.WEIGHTS
        yield check.problem(
            f"{len(bad)} of {len(named)} tensors of the network have NaN or infinite values: "
            f"{', '.join(first_of(bad, SHOWN))}",
            "No step can be made from them.",
            f"Take other weights than {source} (MODEL.WEIGHTS): these come from a training that failed."
            if source
            else f"{CODE} look at how these are initialised.",
            tensors=len(bad),
        )  # fmt: skip
        return
    first: list[str] = []
    hooks = [m.register_forward_hook(_note_not_finite(name, first)) for name, m in bench.model.named_modules()]
    try:
        bench.outputs()
        bench.training_outputs()
    except NonFiniteError as error:
        where = f"; they begin in {first[0]}" if first else ""
        yield check.problem(
            f"NaN or infinite predictions of the first images: {error}{where}",
            "The training would end at its first step.",
            "Look at MODEL.PIXEL_MEAN and PIXEL_STD, which must be those of the weights, and at the module named here.",
        )
        return
    finally:
        for hook in hooks:
            hook.remove()
    yield check.ok(f"{len(named)} tensors of the network are finite, and so is what it predicts")


def _note_not_finite(name: str, found: list[str]) -> object:
    def note(module: nn.Module, inputs: object, output: object) -> None:
        parts = output if isinstance(output, list | tuple) else [output]
        if any(isinstance(part, Tensor) and not bool(part.isfinite().all()) for part in parts):
            found.append(name or "the network")

    return note


@check_network("model/classes", "has every head its classes, and one for 'no object'?")
def classes(check: Check, bench: Bench) -> Iterator[Finding]:
    """Outputs of every classifier beside the categories of the data."""
    categories = bench.subject.engine.categories
    sizes = {MAIN: len(categories.names), **categories.sizes}
    outputs = {head: logits.shape[-1] for head, logits in logits_of(bench.outputs()).items()}
    sound = True
    for head, size in sizes.items():
        given = outputs.get(head)
        if given == size + 1:
            continue
        sound = False
        lacks = " and none for 'no object'" if given == size else ""
        yield check.problem(
            f"{called(head)} has {given} outputs for {size} classes{lacks}; it must have {size + 1}"
            if given is not None
            else f"the network has no {called(head)}, of which the data have {size} classes",
            "A query without an object has no class to learn: labels and predictions of this head are wrong, or the "
            "loss fails with an assertion that names nothing (t >= 0 && t < n_classes).",
            f"{CODE} model/transformer_decoder.py, {head}_embed must have classes + 1 outputs, 'no object' the last.",
            head=head, outputs=given, classes=size,
        )  # fmt: skip
    for head in outputs.keys() - sizes.keys():
        sound = False
        yield check.problem(
            f"the network has a head {head!r}, of which the data have no labels",
            "It learns 'no object' for everything.",
            "Name it in DATASETS.SUBCATEGORIES, or build the network without it.",
            head=head,
        )
    if sound:
        listed = ", ".join(f"{head} {size} + 1" for head, size in sizes.items())
        yield check.ok(f"outputs of each head: {listed}", outputs=outputs)


@check_network("model/weights", "what of MODEL.WEIGHTS has been loaded?")
def weights(check: Check, bench: Bench) -> Iterator[Finding]:
    """Compare the network's tensors with the file's, part by part."""
    source, own = bench.subject.config.MODEL.WEIGHTS, bench.model.state_dict()
    if not source:
        yield check.ok("from scratch: MODEL.WEIGHTS is empty")
        return
    learned = [name for name in own if not name.endswith(("num_batches_tracked", "relative_position_index"))]
    parts: dict[str, list[str]] = defaultdict(list)
    for name in learned:
        if not OUTPUT_NORM.match(name):  # of Swin: no file of ImageNet has them
            parts[_part_of(name, bench.heads)].append(name)
    loaded = {part: sum(name in bench.from_file for name in names) for part, names in parts.items()}
    listed = ", ".join(f"{part} {loaded[part]} of {len(names)}" for part, names in parts.items())
    missing = [name for name in parts["backbone"] if name not in bench.from_file]
    if missing:
        yield check.problem(
            f"{len(missing)} of {len(parts['backbone'])} tensors of the backbone have not the values of {source}: "
            f"{', '.join(first_of(missing, SHOWN))}",
            "What should be trained starts as noise; with norms whose statistics are frozen it stays so.",
            "Read what the log says of the file's names, and give a file that is for this backbone.",
            loaded=loaded,
        )
        return
    yield check.ok(f"tensors with the values of {source}: {listed}; the others start fresh", loaded=loaded)


def _part_of(name: str, heads: Iterable[str]) -> str:
    if name.startswith("backbone."):
        return "backbone"
    if not name.startswith(PREDICTOR):
        return "pixel decoder"
    found = (head for head in heads if name.startswith(f"{PREDICTOR}{head}_embed."))
    return next((called(head) for head in found), "transformer decoder")


@check_network("model/gradients", "does the gradient of every loss reach what it should?")
def gradients(check: Check, bench: Bench) -> Iterator[Finding]:
    """One backward for each term of a training step; layers that drop something at random drop nothing."""
    blocks = blocks_of(bench)
    yield from (found := list(_frozen(check, bench, blocks)))
    bench.train(steady=False)
    for module in bench.model.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.eval()
    _, terms, _ = bench.weighted_losses()
    own = dict(bench.model.named_parameters())
    learning = {block: [own[n] for n in names if own[n].requires_grad] for block, names in blocks.items()}
    learning = {name: block for name, block in learning.items() if block}
    reached: dict[str, set[str]] = {}
    broken: set[str] = set()
    for term, value in terms.items():
        reached[term] = set()
        if not value.requires_grad:
            continue
        parameters = [p for block in learning.values() for p in block]
        slopes = iter(torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True))
        for name, block in learning.items():
            of_block = [slope for slope in (next(slopes) for _ in block) if slope is not None]
            if any(not bool(slope.isfinite().all()) for slope in of_block):
                broken.add(name)
            if any(bool(slope.any()) for slope in of_block):
                reached[term].add(name)
    if broken:
        found.append(_broken(check, sorted(broken)))
        yield found[-1]
    reached["unlabelled"] = {called(head) for head in bench.excerpt.unlabelled}  # no fault of theirs
    unreached = [name for name in learning if not any(name in names for names in reached.values())]
    if unreached:
        found.append(_unreached(check, unreached))
        yield found[-1]
    for finding in _cut_off(check, bench, reached, learning):
        found.append(finding)
        yield finding
    if not found:
        yield check.ok(f"the losses reach all {len(learning)} blocks that learn", blocks=len(learning))


def _frozen(check: Check, bench: Bench, blocks: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Parameters that do not learn, though neither FREEZE_AT nor a frozen norm says so."""
    learner, config = bench.subject.learner, bench.subject.config
    own = dict(learner.model.named_parameters())
    stages = bench.model.backbone.stages()[: config.MODEL.BACKBONE.FREEZE_AT]
    meant = {id(p) for stage in stages for module in stage for p in module.parameters()}
    of_copy = dict(bench.model.named_parameters())
    frozen = [
        block
        for block, names in blocks.items()
        if any(not own[name].requires_grad and id(of_copy[name]) not in meant for name in names)
    ]
    if frozen:
        yield check.problem(
            f"frozen, though MODEL.BACKBONE.FREEZE_AT does not say so: {', '.join(first_of(frozen, SHOWN))}",
            "It stays as it begins: a head gives random answers to the end.",
            f"{CODE} requires_grad is False for parameters in these blocks.",
            blocks=frozen,
        )
    rates = {id(p): float(group["lr"]) for group in learner.optimizer(config).param_groups for p in group["params"]}
    for what, rate in (("is not given to", None), ("has a learning rate of 0 in", 0.0)):
        left = [
            block
            for block, names in blocks.items()
            if any(own[name].requires_grad and rates.get(id(own[name])) == rate for name in names)
        ]
        if rate == 0.0 and config.SOLVER.BACKBONE_MULTIPLIER == 0:
            left = [block for block in left if not block.startswith("backbone")]
        if left:
            yield check.problem(
                f"what {what} the optimizer: {', '.join(first_of(left, SHOWN))}",
                "It stays as it begins.",
                "Look at SOLVER.BASE_LR and BACKBONE_MULTIPLIER, then at learner/optimizer.py, build_optimizer.",
                blocks=left,
            )


def _broken(check: Check, names: list[str]) -> Finding:
    return check.problem(
        f"the gradient is NaN or infinite in {', '.join(first_of(names, SHOWN))}",
        "The first step would make all weights NaN.",
        "Look for a root, a logarithm or a division of zero in these blocks or behind them.",
        blocks=names,
    )


def _unreached(check: Check, names: list[str]) -> Finding:
    return check.problem(
        f"no gradient reaches {', '.join(first_of(names, SHOWN))}",
        "What no loss depends on stays as it begins.",
        f"{CODE} something is detached, or its output is not used.",
        blocks=names,
    )


def _cut_off(
    check: Check, bench: Bench, reached: Mapping[str, set[str]], learning: Mapping[str, object]
) -> Iterator[Finding]:
    """Losses that stop before the image: their head reads something that is not the decoder's output for it."""
    last = f"decoder layer {bench.model.sem_seg_head.predictor.num_layers}"
    behind = {last: [last], "pixel decoder": [], "backbone": []}
    for name in learning:
        kind = next((kind for kind in ("pixel decoder", "backbone") if name.startswith(kind)), None)
        if kind is not None:
            behind[kind].append(name)
    whose = {term_of(head): called(head) for head in bench.heads} | {"loss_mask": "the masks", "loss_dice": "the masks"}
    seen: set[tuple[str, str]] = set()
    for term, name in whose.items():
        blocks = reached.get(term)
        if not blocks:  # it is named already: as unreached, or by model/loss
            continue
        missing = [part for part, names in behind.items() if names and not blocks.intersection(names)]
        if missing and (name, missing[0]) not in seen:
            seen.add((name, missing[0]))
            yield check.problem(
                f"the loss of {name} ({term}) does not reach {', '.join(missing)}",
                "It does not depend on the decoder's last output for the image: it may be fed the queries themselves, "
                "or something that is detached.",
                f"{CODE} model/transformer_decoder.py, _predict: every classifier reads `decoded`, with its history.",
                term=term, missing=missing,
            )  # fmt: skip


_BLOCKS = (
    (r"pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.", "pixel decoder, encoder layer {}", 1),
    (r"pixel_decoder\.input_proj\.(\d+)\.", "pixel decoder, projection of res{}", None),
    (r"pixel_decoder\.mask_features\.", "pixel decoder, mask features", 0),
    # its codes reach nothing at first: offsets and weights of the deformable attention start with weights of zero
    (r"pixel_decoder\.transformer\.level_embed", "pixel decoder, encoder layer 1", 0),
    (r"pixel_decoder\.", "pixel decoder, FPN", 0),
    (r"predictor\.transformer_\w+_layers\.(\d+)\.", "decoder layer {}", 1),
    (r"predictor\.decoder_norm\.", "decoder norm", 0),
    (r"predictor\.query_(?:feat|embed)\.", "queries", 0),
    (r"predictor\.query_selection\.", "query selection", 0),
    (r"predictor\.mask_prior\.", "mask prior", 0),
    (r"predictor\.level_embed\.", "decoder, level codes", 0),
    (r"predictor\.input_proj\.", "decoder, projections", 0),
    (r"predictor\.mask_embed\.", "mask embedding", 0),
)  # fmt: skip


def blocks_of(bench: Bench) -> dict[str, list[str]]:
    """The parameters' names by blocks whose names a reader knows."""
    blocks: dict[str, list[str]] = defaultdict(list)
    backbone = bench.model.backbone
    stage_of = {
        id(p): f"backbone {name}"
        for name, stage in zip(("stem", "res2", "res3", "res4", "res5"), backbone.stages(), strict=True)
        for module in stage
        for p in module.parameters()
    }
    for name, parameter in bench.model.named_parameters():
        blocks[stage_of.get(id(parameter)) or _block_of(name, bench.heads)].append(name)
    return dict(blocks)


def _block_of(name: str, heads: Iterable[str]) -> str:
    if name.startswith("backbone."):
        return "backbone, norms of its outputs"
    for head in heads:
        if name.startswith(f"{PREDICTOR}{head}_embed."):
            return called(head)
    for pattern, block, first in _BLOCKS:
        if found := re.search(pattern, name):
            if first is None:  # res5 comes first
                return block.format(5 - int(found[1]))
            return block.format(int(found[1]) + first) if found.groups() else block
    return name.rpartition(".")[0]


@check_network("model/images", "do the outputs of every head differ between images, and between queries?")
def images(check: Check, bench: Bench) -> Iterator[Finding]:
    """Of two images, in the outputs and in what `predict` makes of them."""
    a, b = bench.images[:2]
    if torch.equal(a, b):
        b = bench.images[2]
    same: dict[str, str] = {}
    outputs = bench.outputs([a, b])
    apart: dict[str, float] = {}
    parts = {called(head): logits[-1] for head, logits in logits_of(outputs).items()}
    parts["the masks"] = _cells(outputs)
    for name, values in parts.items():
        apart[name] = _distance(values[0], values[1]) / _spread(values)
        if apart[name] < NOISE:
            same[name] = "image to image"
        elif values.shape[1] > 1 and _spread(values - values.mean(1, keepdim=True)) < NOISE * _spread(values):
            same[name] = "query to query"
    first, second = bench.predict([a, b])
    for head in bench.heads[1:]:
        if len(first) and len(second) and called(head) not in same and _is_alike(first, second, head):
            same[called(head)] = "image to image in `predict`"
    for name, how in same.items():
        yield check.problem(
            f"what {name} predict{'s' * (name != 'the masks')} does not change from {how}",
            "It is not made of the decoder's output for the image, but of something that is the same for all: of the "
            "query weights, say.",
            f"{CODE} model/transformer_decoder.py, _predict, and model/inference.py: what is kept of a query must be "
            "that of the decoder's last output for this image.",
            of=name,
        )
    if not same:
        least = min(apart, key=lambda name: apart[name])
        yield check.ok(
            f"two images differ in the outputs of all {len(bench.heads)} heads and in the masks, least in {least} "
            f"({apart[least]:.2g} of the outputs' spread)",
            apart=apart,
        )


def _cells(outputs: Outputs) -> Tensor:
    """(B, Q, cells) of the masks."""
    return outputs.pred_masks.flatten(2)


def _spread(values: Tensor) -> float:
    """How much the numbers differ from each other; from zero where they do not."""
    spread = float(values.float().std(unbiased=False))
    return max(spread, NOISE * float(values.abs().mean()), 1e-12)


def _distance(a: Tensor, b: Tensor) -> float:
    """Of a query in the middle: one or two may go another way for a rounding (a peak, a cell that is attended to)."""
    return float((a - b).abs().flatten(1).mean(1).median())


def _is_alike(a: Found, b: Found, head: str) -> bool:
    """Whether all instances of two images have the probabilities that their queries have in the other one too."""
    ours, theirs = (dict(zip(x.queries.tolist(), x.subprobs[head], strict=True)) for x in (a, b))
    both = ours.keys() & theirs.keys()
    return bool(both) and all(torch.allclose(ours[q], theirs[q], atol=1e-6) for q in both)


@check_network("model/batch", "are the predictions of images in one batch those of each alone?")
def batch(check: Check, bench: Bench) -> Iterator[Finding]:
    """Images of one size, so that nothing is padded."""
    together = bench.outputs(bench.images)
    alone = [bench.outputs([image]) for image in bench.images]
    worst: dict[str, float] = {}
    found: list[Finding] = []
    for name, of in _parts_by_image(bench).items():
        values, single = of(together), [of(outputs)[0] for outputs in alone]
        spread = _spread(values)
        for i, expected in enumerate(single):
            off = _distance(values[i], expected) / spread
            others = [_distance(expected, other) / spread for j, other in enumerate(single) if j != i]
            worst[name] = max(worst.get(name, 0.0), off)
            if off > APART or off > max(NOISE, OF_ANOTHER * max(others)):
                found.append(_mixed(check, name, i, off, f"differ by {off:.2g} of their spread"))
                break
    found += _mixed_instances(check, bench)
    yield from found
    if not found:
        yield check.ok(
            f"{len(bench.images)} images in one batch are predicted as each alone: outputs differ by "
            f"{max(worst.values()):.1g} of their spread at most",
            worst=worst,
        )


def _parts_by_image(bench: Bench) -> dict[str, Callable[[Outputs], Tensor]]:
    parts = {called(head): partial(_last_logits, head) for head in bench.heads}
    return {**parts, "the masks": _cells}


def _last_logits(head: str, outputs: Outputs) -> Tensor:
    return logits_of(outputs)[head][-1]


def _mixed(check: Check, name: str, image: int, off: float, how: str) -> Finding:
    return check.problem(
        f"predictions of {name} for image {image + 1} of a batch are not those for it alone: they {how}",
        "Something of the other images is in them: their logits, or the statistics of a batch norm that is still in "
        "training mode.",
        f"{CODE} model/inference.py must read the outputs of the image itself; and evaluation must call model.eval().",
        of=name, image=image, off=off,
    )  # fmt: skip


def _mixed_instances(check: Check, bench: Bench) -> Iterator[Finding]:
    """What `predict` makes of images in one batch, and of each alone."""
    together, alone = bench.predict(bench.images), [bench.predict([image])[0] for image in bench.images]
    for i, (a, b) in enumerate(zip(together, alone, strict=True)):
        ours, theirs = (_by_pair(found) for found in (a, b))
        both = ours.keys() & theirs.keys()
        common = len(both) / max(len(ours), len(theirs), 1)
        if max(len(ours), len(theirs)) and common < 0.5:
            yield _mixed(check, "`predict`", i, 1 - common, f"have {common:.0%} of their instances in common")
            return
        for head in (MAIN, *a.subprobs):
            off = [float((ours[pair][head] - theirs[pair][head]).abs().max()) for pair in both]
            if off and sorted(off)[len(off) // 2] > 1e-3:
                middle = sorted(off)[len(off) // 2]
                yield _mixed(check, f"{called(head)} in `predict`", i, middle, f"differ by {middle:.2g} in probability")
                return


def _by_pair(found: Found) -> dict[tuple[int, int], dict[str, Tensor]]:
    """Score (as `MAIN`) and probabilities of every instance, by its query and its label."""
    pairs = zip(found.queries.tolist(), found.labels.tolist(), strict=True)
    return {
        pair: {MAIN: found.scores[i], **{head: probs[i] for head, probs in found.subprobs.items()}}
        for i, pair in enumerate(pairs)
    }


@check_network("model/modes", "do training and evaluation mode agree on what is predicted and who is matched?")
def modes(check: Check, bench: Bench) -> Iterator[Finding]:
    """With layers that are meant to differ held still, all must be the same; with them, who is matched is told."""
    training, evaluation = bench.training_outputs(steady=True), bench.outputs()
    off: dict[str, float] = {}
    for name, of in _parts_by_image(bench).items():
        ours, theirs = of(training), of(evaluation)
        off[name] = max(_distance(a, b) for a, b in zip(ours, theirs, strict=True)) / _spread(theirs)
    wrong = [name for name, value in off.items() if not value < APART]
    for name in wrong:
        yield check.problem(
            f"what {name} predict{'s' * (name != 'the masks')} is another in training than in evaluation, by "
            f"{off[name]:.2g} of its spread, though no norm and no dropout accounts for it",
            "What is scored is not what has been trained.",
            f"{CODE} look for `if self.training` in model/, and at what inference reads in place of the outputs.",
            of=name, off=off[name],
        )  # fmt: skip
    if not wrong:
        kinds, agreeing = bench.moded, _agreement(bench)
        meant = f"; {', '.join(kinds)} act otherwise in training, as they are meant to" if kinds else ""
        yield check.ok(
            f"{agreeing:.0%} of instances are matched to the same query in both modes{meant}", agreeing=agreeing
        )


def _agreement(bench: Bench) -> float:
    """The share of instances whose query is the same in both modes, in the last output."""
    both = (bench.training_outputs(), bench.outputs())
    a, b = (bench.criterion.matcher(outputs, bench.targets, bench.points()).queries[-1] for outputs in both)
    return float((a == b).float().mean())


@check_network("model/schedule", "does the schedule give a learning rate?")
def schedule(check: Check, bench: Bench) -> Iterator[Finding]:
    """The factor on the learning rates over the whole training."""
    config = bench.subject.config
    factor, end = bench.learner.schedule(config), config.SOLVER.MAX_ITER
    steps = sorted({round(part * (end - 1) / SCHEDULED) for part in range(SCHEDULED + 1)})
    factors = [factor(step) for step in steps]
    most = max(factors, key=abs)
    if not all(map(math.isfinite, factors)) or not 0 < most <= MOST_FACTOR or min(factors) < 0:
        yield check.problem(
            f"the schedule multiplies the learning rate by {min(factors):g} to {most:g} over {end} iterations",
            "Nothing is learned, or the weights are destroyed.",
            f"{CODE} learner/optimizer.py, schedule_factor; with the code as it is, look at SOLVER.STEPS, GAMMA and "
            "WARMUP_FACTOR.",
            factors=factors,
        )
    elif (without := sum(value < MOST_FACTOR / 1e4 for value in factors)) > len(factors) / 2:
        yield check.warning(
            f"the schedule gives next to no learning rate in {without} of {len(factors)} parts of the training",
            "Most of the training changes nothing.",
            "Look at SOLVER.STEPS, GAMMA, WARMUP_ITERS and MAX_ITER.",
            factors=factors,
        )
    else:
        yield check.ok(f"the schedule multiplies the learning rate by {min(factors):.3g} to {most:.3g}")


@check_network("model/inference", "is an instance what the decoder's output for its query says?")
def inference(check: Check, bench: Bench) -> Iterator[Finding]:
    """Labels, probabilities, scores and masks of `predict`, made once more of the outputs."""
    pair = bench.images[:2]
    outputs, found = bench.outputs(pair), bench.predict(pair)
    problems: dict[str, tuple[float, int]] = {}
    for image, instances in enumerate(found):
        for name, right in _recomputed(bench, outputs, image, pair, instances).items():
            share, count = problems.get(name, (1.0, 0))
            problems[name] = (min(share, right), count + len(instances))
    wrong = {name: value for name, value in problems.items() if value[0] < AGREEING}
    for name, (share, count) in wrong.items():
        yield check.problem(
            f"of {count} instances that `predict` gives of two images, only {share:.0%} have in {name} what the "
            "decoder's last output for their query says",
            "The outputs of one query are given to another, or those of another image or layer: what is scored is not "
            "what was learned.",
            f"{CODE} model/inference.py: scores, labels, every head's probabilities and masks must be indexed by the "
            "kept query and the image.",
            of=name, share=share,
        )  # fmt: skip
    if not wrong:
        count = sum(map(len, found))
        yield check.ok(f"labels, {len(bench.heads)} heads' probabilities and masks of {count} instances are those of "
                       "their queries", instances=count)  # fmt: skip


def _recomputed(bench: Bench, outputs: Outputs, image: int, pair: Sequence[Tensor], found: Found) -> dict[str, float]:
    """The share of an image's instances that are right, for each part of them."""
    if not len(found):
        return {}
    queries = found.queries
    probs = {head: logits[-1, image].float().softmax(-1) for head, logits in logits_of(outputs).items()}
    right = {
        called(head): _share((probs[head][queries, :-1] - given).abs().amax(-1) < 1e-3)
        if probs[head].shape[-1] - 1 == given.shape[-1]
        else 0.0
        for head, given in found.subprobs.items()
    }
    height, width = pair[image].shape[1:]
    padded = padded_size(pair, bench.model.size_divisibility)
    logits = outputs.pred_masks[image, queries][None]
    logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)[0, :, :height, :width]
    masks = logits > 0
    given = torch.from_numpy(decode(found.masks, height, width)).bool().to(masks.device)
    union = (masks | given).flatten(1).sum(1)
    overlap = (masks & given).flatten(1).sum(1) / union.clamp(min=1)
    if bool((union > 0).any()):
        right["the masks"] = _share(overlap[union > 0] > 0.8)
    quality = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
    ranking = bench.learner.config.MODEL.MASK_FORMER.TEST.RANKING
    subprobs = [probs[head] for head in outputs.pred_sublogits]
    scores = ranking_scores(probs[MAIN], subprobs, ranking)[queries, found.labels] * quality
    right["scores and labels of the main head"] = _share((scores - found.scores).abs() < 1e-3)
    return right


def _share(right: Tensor) -> float:
    return float(right.float().mean())


CHECKS: tuple[Check, ...] = (finite, classes, weights, *losses.CHECKS[:1], gradients, images, batch, *losses.CHECKS[1:],
                             modes, inference, schedule)  # fmt: skip
