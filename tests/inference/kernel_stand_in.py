"""The decoding kernels' torch reference in their place, for the tests of what is around them."""

import torch

from headscope.heads.window import Window
from headscope.inference.boundary import LayerState, Pair
from headscope.inference.kernel_decode import Span
from headscope.kernels.common.layer import Cache, Decided
from headscope.kernels.decode import reference


def reference_step(state: LayerState, query: torch.Tensor, pair: Pair, span: Span, window: Window) -> Decided:
    """As `kernel_decode.decide_and_attend`; rows that start behind padding are copied to the front."""
    keys, values = (x.to(query.dtype) for x in pair)
    if span.starts is not None:
        starts = span.starts.tolist()
        rolled = [[row.roll(-first, 1) for row, first in zip(x, starts, strict=True)] for x in (keys, values)]
        keys, values = (torch.stack(rows) for rows in rolled)
    cache, ends = Cache(keys, values, span.lengths), (window.sink, window.recent)
    if state.means is not None:
        reference.update_clusters(cache, state.summary, state.means, *ends)
    return reference.attend_step(query, cache, state.summary, state.rule, *ends, state.scale, state.outliers)
