"""Feeding tokens to the model: a dense prefill, or chunk after chunk under whatever takes over the attention.

Shapes: R rows, K KV heads, Q queries, P tokens so far, D head_dim, V tokens of the vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from headscope.heads.bulk import LAST_QUERIES, LayerCache
from headscope.lab.probes import ModelProbes
from headscope.models.attention import LayerCall, Layers, causal_attention
from headscope.models.rotary import refuse_changing_factors


def prefill_densely(model: PreTrainedModel, ids: Sequence[int], probes: ModelProbes | None = None) -> list[LayerCache]:
    """Run the context densely and return what a boundary leaves of every layer: keys and values, [K, P, D] each."""
    return _extended(model, [], ids, None, probes)


def prefill_by_chunks(
    model: PreTrainedModel,
    ids: Sequence[int],
    bounds: Sequence[int],
    attending: Callable[[list[LayerCache]], Layers],
    probes: ModelProbes | None = None,
) -> list[LayerCache]:
    """Run tokens up to the first bound densely, then each chunk between two bounds by attention of its own.

    Args:
        model: in evaluation mode.
        ids: of one sequence.
        bounds: positions that part the chunks, ascending; the last is where the prefill ends.
        attending: makes a chunk's attention from all layers as the chunks before left them.
        probes: of the model; turned to the start of each chunk, and to the end.
    """
    prefix = prefill_densely(model, ids[: bounds[0]], probes)
    for first, last in pairwise(bounds):
        prefix = _extended(model, prefix, ids[first:last], attending(prefix), probes)
    return prefix


def _extended(
    model: PreTrainedModel,
    prefix: Sequence[LayerCache],
    ids: Sequence[int],
    attending: Layers | None,
    probes: ModelProbes | None,
) -> list[LayerCache]:
    """Feed tokens that follow the prefix; returns every layer with their keys and values behind the prefix's."""
    # A cache without a config keeps all keys of sliding layers too, so that one rule of positions serves every layer.
    own, first, seen = DynamicCache(), prefix[0].keys.shape[1] if prefix else 0, _LastQueries(prefix, attending)
    if prefix:
        refuse_changing_factors(model, first, first + len(ids))
    forward(model, torch.tensor([ids]), first, own, seen)
    keys, values = [layer.keys[0] for layer in own.layers], [layer.values[0] for layer in own.layers]
    if prefix:
        keys = [torch.cat([before.keys, new], 1) for before, new in zip(prefix, keys, strict=True)]
        values = [torch.cat([before.values, new], 1) for before, new in zip(prefix, values, strict=True)]
    end = first + len(ids)
    asked = {} if probes is None else {layer: probes.at(model, layer, end) for layer in probes.queries}
    layers = enumerate(zip(keys, values, strict=True))
    return [
        LayerCache(i, *layer, seen.scales[i], asked.get(i), seen.queries[i], sliding=seen.sliding[i])
        for i, layer in layers
    ]


class _LastQueries:
    """Keeps each layer's kind and last queries, behind the prefix's; attends as it is told, else as the model does."""

    def __init__(self, prefix: Sequence[LayerCache], attending: Layers | None) -> None:
        self.queries = {layer.layer: layer.queries for layer in prefix if layer.queries is not None}
        self.scales: dict[int, float] = {}
        self.sliding: dict[int, int | None] = {}
        self.attending = attending

    def attend(self, call: LayerCall) -> Tensor:
        before = self.queries.get(call.layer, call.query[0, :, :0])
        self.scales[call.layer], self.sliding[call.layer] = call.scale, call.sliding
        self.queries[call.layer] = torch.cat([before, call.query[0]], 1)[:, -LAST_QUERIES:]
        return causal_attention(call) if self.attending is None else self.attending.attend(call)


def forward(
    model: PreTrainedModel,
    ids: Tensor,
    first: int | Tensor,
    cache: DynamicCache,
    attending: Layers | None,
    banned: Sequence[int] = (),
) -> Tensor:
    """Feed [R, Q] tokens; return each row's greedy token, no `banned` one, [R], on the CPU.

    `first` is the position of the first tokens, one number or each row's, [R].
    """
    logits = next_logits(model, ids, first, cache, attending)
    if banned:
        logits[:, list(banned)] = float("-inf")
    greedy: Tensor = logits.argmax(-1).cpu()
    return greedy


def next_logits(
    model: PreTrainedModel, ids: Tensor, first: int | Tensor, cache: DynamicCache, attending: Layers | None
) -> Tensor:
    """Feed [R, Q] tokens from position `first` on, as `forward`; return the logits that follow, float32 [R, V]."""
    device = model.get_input_embeddings().weight.device
    start = first[:, None].to(device) if isinstance(first, Tensor) else first
    positions = (start + torch.arange(ids.shape[1], device=device)).expand(ids.shape[0], -1)
    output = model(
        ids.to(device),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        headscope=attending,
    )
    # As generate() does: float32 before the argmax, so that half-precision ties break alike.
    logits: Tensor = output.logits[:, -1].float()
    return logits
