"""`scope=prompt`: each row's own prefill under its criterion, one row's cache at a time.

Shapes: H query heads, Q tokens of the context.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from headscope.heads.bulk import LayerCache
from headscope.heads.criteria.dense import Dense
from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.prefill import prefill_by_chunks, prefill_densely
from headscope.lab.probes import ModelProbes
from headscope.lab.rows import Rows
from headscope.lab.scope import summary_positions
from headscope.lab.shared_prefix import SharedPrefix


def prefill_each_row(
    model: PreTrainedModel,
    context: Sequence[int],
    criteria: Sequence[Rows],
    window: Window,
    chunk: int,
    probes: ModelProbes | None,
) -> Iterator[SharedPrefix]:
    """Prefill the context for each row in turn; what comes is ready to decode, with the context's labels counted.

    A chunk is what decoding is: queries behind a prefix, whose outliers and summaries are frozen at its end.

    Args:
        model: in evaluation mode.
        context: tokens before the question.
        criteria: the rows of each. Dense ones are alike and share one prefill.
        window: the local window.
        chunk: tokens of a chunk.
        probes: of the model, where rules for outliers ask for them.
    """
    bounds, sizes = summary_positions(window, len(context), chunk), Sizes.of(model.config, window)
    for group in criteria:
        if isinstance(group.criterion, Dense) and not group.outliers.count:
            prefix = prefill_densely(model, context, probes)
            yield SharedPrefix(prefix, [group], window, _dense_counts(sizes, prefix, group.count))
            continue
        for row in range(group.count):
            alone = group.take(torch.tensor([row]))
            attending = partial(SharedPrefix, groups=[alone], window=window, counts=ReadingCounts(1, sizes))
            yield attending(prefill_by_chunks(model, context, bounds, attending, probes))


def _dense_counts(sizes: Sizes, prefix: Sequence[LayerCache], rows: int) -> ReadingCounts:
    """Count a dense prefill, in which every pair is long, where each layer's keys are."""
    counts = ReadingCounts(rows, sizes)
    for cache in prefix:
        if cache.sliding is None:
            position = torch.arange(cache.keys.shape[1], device=cache.keys.device)
            long = torch.ones(rows, sizes.heads, len(position), dtype=torch.bool, device=position.device)
            counted = (sizes.window.bulk_size(position) > 0).expand(rows, -1)
            counts.add(cache.layer, long, counted, position + 1, torch.zeros(rows).double())
    return counts
