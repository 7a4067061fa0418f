"""A batch that decodes under a calibrated criterion, one query of every row at a time.

A key that leaves the window joins its cluster; a Gaussian stays as the boundary found it, as the paper has it. In half
precision on a GPU the kernels decide and attend, elsewhere their torch reference, which is right and not fast.

Shapes: B rows, H query heads, K KV heads, T keys that a cache can hold, D head_dim.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headscope.heads.window import Window
from headscope.kernels import reference
from headscope.kernels.layer import Cache, Decoded
from headscope.models.boundary import LayerState, Pair
from headscope.models.counts import LocalCounts

PAGE = 64
HELD = 256
"""Steps whose labels are held before they are counted: a step then costs one launch a layer."""


class Decoding:
    """Rows of one batch from their boundary on; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: state of the full-attention layers.
    """

    def __init__(self, layers: Mapping[int, LayerState], starts: Sequence[int], window: Window, device: torch.device):
        """Start behind a boundary.

        Args:
            layers: as the boundary left them.
            starts: first key of each row that is no padding.
            window: the local window.
            device: of the model's inputs.
        """
        self.layers, self.window = layers, window
        self._starts = torch.tensor(starts, dtype=torch.int32, device=device)
        self._padded = any(starts)
        self._counts = LocalCounts(len(starts))
        self._labels: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        self._counted: list[Tensor] = []

    def step(self, length: int, alive: Tensor) -> None:
        """Announce a query of every row.

        Args:
            length: keys of the cache with the query's own, padding included.
            alive: rows whose labels count, bool [B].
        """
        if len(self._counted) == HELD:
            self.counts()
        self._lengths = length - self._starts
        self._counted.append((self._lengths > self.window.sink + self.window.recent) & alive)

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one query of every row over all keys or its window, [B, H, 1, D]."""
        state, dtype = self.layers[layer], query.dtype
        query = query[:, :, 0].to(state.rest.keys.dtype).contiguous()
        lengths, starts = (x.to(key.device) for x in (self._lengths, self._starts))
        attend = _by_kernels if state.by_kernels else _by_reference
        decoded = attend(state, query, (key, value), lengths, starts if self._padded else None, self.window)
        self._labels[layer].append(decoded.long.clone())
        return decoded.output[:, :, None].to(dtype)

    def counts(self) -> LocalCounts:
        """Labels given so far."""
        for layer, labels in self._labels.items():
            if labels:
                counted = torch.stack(self._counted[: len(labels)], 1).to(labels[0].device)
                kv_heads = self.layers[layer].rest.keys.shape[1]
                self._counts.add(layer, torch.stack(labels, 2), kv_heads, counted)
                labels.clear()
        self._counted.clear()
        return self._counts


def _by_kernels(
    state: LayerState, query: Tensor, pair: Pair, lengths: Tensor, starts: Tensor | None, window: Window
) -> Decoded:
    """Rows that start behind padding are read in place, as pages."""
    from headscope.kernels.decode import Workspace, decode  # Triton is no part of a CPU build of torch
    from headscope.kernels.join import join

    cache = Cache(*pair, lengths) if starts is None else _paged(*pair, lengths, starts)
    given = state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    # Triton launches on the current GPU, which may not be this layer's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        if state.workspace is None:
            state.workspace = Workspace.of(query, pair[0].shape[1])
        if state.means is not None:
            join(cache, state.rest, state.means, window.sink, window.recent)
        return decode(query, cache, *given, state.workspace)


def _by_reference(
    state: LayerState, query: Tensor, pair: Pair, lengths: Tensor, starts: Tensor | None, window: Window
) -> Decoded:
    """Rows that start behind padding are copied to the front."""
    keys, values = (x.to(query.dtype) for x in pair)
    if starts is not None:
        moved = [[row.roll(-first, 1) for row, first in zip(x, starts.tolist(), strict=True)] for x in (keys, values)]
        keys, values = (torch.stack(rows) for rows in moved)
    cache = Cache(keys, values, lengths)
    if state.means is not None:
        reference.join(cache, state.rest, state.means, window.sink, window.recent)
    given = state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    return reference.decode(query, cache, *given)


def _paged(keys: Tensor, values: Tensor, lengths: Tensor, starts: Tensor) -> Cache:
    """The same memory as pages: page n starts at key n of all memory, and the KV heads of a page lie T keys apart."""
    rows, kv_heads, most, dim = keys.shape
    page, stride = min(PAGE, most), keys.stride(2)
    first = starts + torch.arange(rows, device=keys.device) * (keys.stride(0) // stride)
    pages = first[:, None] + torch.arange(0, most, page, device=keys.device)
    paged = [x.as_strided((1, kv_heads, page, dim), (stride, x.stride(1), stride, 1)) for x in (keys, values)]
    return Cache(paged[0], paged[1], lengths, pages.int())
