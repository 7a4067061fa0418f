"""One dense prefill, many criteria: all rows decode together as one batch over a shared prefix.

The prefix's keys and values are held once and read once for all rows; each row owns the keys of the question and of its
answer, which differ because its criterion changed the hidden states before them.

Shapes: R rows, L full-attention layers, K KV heads, Q queries, P prefix keys, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from headscope.errors import ShapeError
from headscope.heads.bulk import LAST_QUERIES, LayerCache
from headscope.heads.window import Window
from headscope.models.attention import LayerCall, Layers, attention, causal_attention
from headscope.models.probes import Fitted
from headscope.models.shared_prefix import Rows, SharedPrefix


@dataclass(frozen=True)
class Answer:
    """What one row produced.

    Attributes:
        tokens: generated token ids, without the stop token.
        stop: "eos" or "length".
        sparsity: share of (query, head) pairs labelled local, queries with a bulk only; NaN without any.
        sparsity_group: the same by KV group, local only if all of its query heads are.
        sparsity_layer: `sparsity` of each full-attention layer, in their order, [L].
        queries: queries counted.
    """

    tokens: list[int]
    stop: str
    sparsity: float
    sparsity_group: float
    sparsity_layer: list[float]
    queries: int


def prefill(model: PreTrainedModel, ids: Sequence[int], probes: Fitted | None = None) -> list[LayerCache]:
    """Run the context densely and return what a boundary leaves of every layer: keys and values, [K, P, D] each."""
    # A cache without a config keeps all keys of sliding layers too, so that one rule of positions serves every layer.
    cache, seen = DynamicCache(), _LastQueries()
    _forward(model, torch.tensor([ids]), 0, cache, seen)
    asked = {} if probes is None else {layer: probes.at(model, layer, len(ids)) for layer in probes.queries}
    return [
        LayerCache(index, layer.keys[0], layer.values[0], probes=asked.get(index), queries=seen.queries[index])
        for index, layer in enumerate(cache.layers)
    ]


class _LastQueries:
    """Attends as the model does and keeps each layer's last queries."""

    def __init__(self) -> None:
        self.queries: dict[int, Tensor] = {}

    def attend(self, call: LayerCall) -> Tensor:
        self.queries[call.layer] = call.query[0, :, -LAST_QUERIES:]
        return causal_attention(call)


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    ids: Sequence[int],
    boundary: int,
    criteria: Sequence[Rows],
    window: Window,
    max_new_tokens: int,
    eos: Sequence[int],
    min_new_tokens: int = 0,
    probes: Fitted | None = None,
) -> list[Answer]:
    """Decode greedily under every criterion, rows in the given order.

    Args:
        model: in evaluation mode.
        ids: the prompt's tokens.
        boundary: first token of the question; what lies before is prefilled densely, the rest goes through as one
            chunk under each row's criterion (`scope=question`).
        criteria: the rows of each.
        window: the local window.
        max_new_tokens: a row stops there.
        eos: stop tokens; a row that produced one leaves the batch.
        min_new_tokens: so many first tokens are never stop tokens.
        probes: of the model, where rules for outliers ask for them.

    Raises:
        ShapeError: no token before or after the boundary.
    """
    if not 0 < boundary < len(ids):
        raise ShapeError(f"boundary {boundary} leaves no context or no question in a prompt of {len(ids)} tokens")
    with attention(model):
        shared = SharedPrefix(prefill(model, ids[:boundary], probes), criteria, window)
        return _decode_rows(model, ids, shared, max_new_tokens, set(eos), min_new_tokens)


def _decode_rows(
    model: PreTrainedModel,
    ids: Sequence[int],
    shared: SharedPrefix,
    max_new_tokens: int,
    eos: set[int],
    min_new_tokens: int,
) -> list[Answer]:
    rows, boundary, cache = shared.rows, shared.length, DynamicCache()
    tokens: list[list[int]] = [[] for _ in range(rows)]
    stops = ["length"] * rows
    active = torch.arange(rows)
    step = torch.tensor([ids[boundary:]]).expand(rows, -1)
    position = boundary
    for new in range(max_new_tokens):
        following = _forward(model, step, position, cache, shared, sorted(eos) if new < min_new_tokens else [])
        position += step.shape[1]
        stopped = torch.tensor([token in eos for token in following.tolist()])
        for row, token, stop in zip(active.tolist(), following.tolist(), stopped.tolist(), strict=True):
            if stop:
                stops[row] = "eos"
            else:
                tokens[row].append(token)
        if stopped.all():
            break
        if stopped.any():
            going = (~stopped).nonzero()[:, 0]
            active, following = active[going], following[going]
            cache.batch_select_indices(going.to(model.device))
            shared.keep(going)
        step = following[:, None]
    counts = shared.counts
    return [
        Answer(tokens[row], stops[row], *counts.sparsity(row), counts.by_layer(row), counts.queries(row))
        for row in range(rows)
    ]


def _forward(
    model: PreTrainedModel,
    ids: Tensor,
    first: int,
    cache: DynamicCache,
    layers: Layers,
    banned: Sequence[int] = (),
) -> Tensor:
    """Feed [R, Q] tokens from position `first` on; return each row's greedy token, no `banned` one, [R], on the CPU."""
    device = model.get_input_embeddings().weight.device
    positions = torch.arange(first, first + ids.shape[1], device=device)[None].expand(ids.shape[0], -1)
    output = model(
        ids.to(device),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        headscope=layers,
    )
    # As generate() does: float32 before the argmax, so that half-precision ties break alike.
    logits = output.logits[:, -1].float()
    logits[:, list(banned)] = float("-inf")
    greedy: Tensor = logits.argmax(-1).cpu()
    return greedy
