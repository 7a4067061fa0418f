"""One dense prefill, many criteria: all rows decode together as one batch over a shared prefix.

The prefix's keys and values are held once and read once for all rows; each row owns the keys of the question and of its
answer, which differ because its criterion changed the hidden states before them. Where the criteria decide in the
context too (`scope=prompt`), each row has a prefix of its own.

Shapes: R rows, L full-attention layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import DynamicCache, PreTrainedModel

from headscope.errors import ShapeError
from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.prefill import forward, prefill_densely
from headscope.lab.probes import ModelProbes
from headscope.lab.prompt_scope import prefill_each_row
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import attention


@dataclass(frozen=True)
class Answer:
    """What one row produced.

    Attributes:
        tokens: generated token ids, without the stop token.
        stop: "eos" or "length".
        sparsity: share of (query, head) pairs labelled local, queries with a bulk only; NaN without any.
        sparsity_group: the same by KV group, local only if all of its query heads are.
        kv_bytes: bytes of the cache and its summaries that were read, as a share of reading every key and value.
        sparsity_layer: `sparsity` of each full-attention layer, in their order, [L].
        queries: queries counted.
    """

    tokens: list[int]
    stop: str
    sparsity: float
    sparsity_group: float
    kv_bytes: float
    sparsity_layer: list[float]
    queries: int


@torch.inference_mode()
def answer_rows(
    model: PreTrainedModel,
    ids: Sequence[int],
    boundary: int,
    criteria: Sequence[Rows],
    window: Window,
    max_new_tokens: int,
    eos: Sequence[int],
    min_new_tokens: int = 0,
    probes: ModelProbes | None = None,
    chunk: int | None = None,
) -> list[Answer]:
    """Decode greedily under every criterion, rows in the given order.

    Args:
        model: in evaluation mode.
        ids: the prompt's tokens.
        boundary: first token of the question, which goes through as one chunk under each row's criterion.
        criteria: the rows of each.
        window: the local window.
        max_new_tokens: a row stops there.
        eos: stop tokens; a row that produced one leaves the batch.
        min_new_tokens: so many first tokens are never stop tokens.
        probes: of the model, where rules for outliers ask for them.
        chunk: tokens of a chunk of the context, which each row then prefills under its own criterion (`scope=prompt`);
            None prefills it densely, once for all (`scope=question`).

    Raises:
        ShapeError: no token before or after the boundary.
    """
    if not 0 < boundary < len(ids):
        raise ShapeError(f"boundary {boundary} leaves no context or no question in a prompt of {len(ids)} tokens")
    with attention(model):
        context, order = ids[:boundary], _side_by_side(criteria)
        groups = [criteria[i].on(model.get_input_embeddings().weight.device) for i in order]
        if chunk is None:
            counts = ReadingCounts(sum(group.count for group in groups), Sizes.of(model.config, window))
            batches = iter([SharedPrefix(prefill_densely(model, context, probes), groups, window, counts)])
        else:
            batches = prefill_each_row(model, context, groups, window, chunk, probes)
        limits = max_new_tokens, set(eos), min_new_tokens
        answers = (answer for shared in batches for answer in _decode_rows(model, ids, shared, *limits))
        found = {i: list(islice(answers, criteria[i].count)) for i in order}
    return [answer for i in range(len(criteria)) for answer in found[i]]


def _side_by_side(criteria: Sequence[Rows]) -> list[int]:
    """An order in which rows with the same outliers are adjacent: one product then serves all of their windows."""
    outliers = [group.outliers for group in criteria]
    return sorted(range(len(criteria)), key=lambda i: outliers.index(outliers[i]))


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
        following = forward(model, step, position, cache, shared, sorted(eos) if new < min_new_tokens else [])
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
    assert shared.counts is not None
    results = zip(tokens, stops, shared.counts.shares(), shared.counts.layer_shares(), strict=True)
    return [
        Answer(ids, stop, shares.head, shares.group, shares.kv_bytes, by_layer, shares.queries)
        for ids, stop, shares, by_layer in results
    ]
