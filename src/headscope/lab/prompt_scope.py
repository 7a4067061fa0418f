"""`scope=prompt`: each row's own prefill under its criterion, one row's cache at a time.

Shapes: H query heads, Q tokens of the context.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from headscope.heads.criteria.dense import Dense
from headscope.heads.window import Window
from headscope.lab.counts import LocalCounts
from headscope.lab.prefill import prefill_by_chunks, prefill_densely
from headscope.lab.probes import ModelProbes
from headscope.lab.scope import summary_positions
from headscope.lab.shared_prefix import Rows, SharedPrefix
from headscope.models.geometry import geometry


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
    bounds = summary_positions(window, len(context), chunk)
    for group in criteria:
        if isinstance(group.criterion, Dense) and not group.outliers.count:
            yield SharedPrefix(
                prefill_densely(model, context, probes), [group], window, _dense_counts(model, context, group, window)
            )
            continue
        for row in range(group.count):
            one = Rows(group.criterion.take(torch.tensor([row])), 1, group.outliers)
            attending = partial(SharedPrefix, groups=[one], window=window, counts=LocalCounts(1))
            yield attending(prefill_by_chunks(model, context, bounds, attending, probes))


def _dense_counts(model: PreTrainedModel, context: Sequence[int], group: Rows, window: Window) -> LocalCounts:
    """Labels of a dense prefill: every pair is long."""
    counts, sizes = LocalCounts(group.count), geometry(model.config)
    long = torch.ones(group.count, sizes.heads, len(context), dtype=torch.bool)
    counted = (window.bulk_size(torch.arange(len(context))) > 0).expand(group.count, -1)
    for layer in sizes.full_layers:
        counts.add(layer, long, sizes.kv_heads, counted)
    return counts
