"""A batch that decodes under a calibrated criterion, one query of every row at a time.

A key that leaves the window joins its cluster; a Gaussian stays as the boundary found it, as the paper has it. In half
precision on a GPU the kernels decide and attend, elsewhere their torch reference, which is right and not fast.

All that changes from step to step is a tensor updated in place, so that a CUDA graph can hold a step.

Shapes: B rows, L layers, H query heads, K KV heads, T keys that a cache can hold, D head_dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from headscope.heads.window import Window
from headscope.inference.boundary import LayerState, Pair
from headscope.kernels.common.layer import Cache, Decided
from headscope.kernels.decode import reference
from headscope.lab.counts import LocalCounts

PAGE = 64


@dataclass(frozen=True)
class Span:
    """Where the rows' keys lie in a cache.

    Attributes:
        lengths: keys of each row, with the query's own, int32 [B].
        starts: first key of each row, int32 [B]; None: no row has padding before it.
        pages: made once a step for all layers whose caches have the same strides.
    """

    lengths: Tensor
    starts: Tensor | None
    pages: dict[Any, Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> "Span":
        """The same for a layer on a device."""
        if device == self.lengths.device:
            return self
        return Span(self.lengths.to(device), None if self.starts is None else self.starts.to(device))


class AdaptiveDecode:
    """Rows of one batch from their boundary on; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: state of the full-attention layers.
        by_kernels: whether the kernels serve all of them; their reference waits for the rows' lengths.
    """

    def __init__(
        self,
        layers: Mapping[int, LayerState],
        starts: Sequence[int],
        length: int,
        window: Window,
        stops: Tensor,
    ):
        """Start behind a boundary.

        Args:
            layers: as the boundary left them.
            starts: first key of each row that is no padding.
            length: keys of the cache, padding included.
            window: the local window.
            stops: tokens that end a row's count, [stops]; on the device of the model's inputs.
        """
        self.layers, self.window, self._stops = layers, window, stops
        self.by_kernels = all(state.by_kernels for state in layers.values())
        first, device = next(iter(layers.values())), stops.device
        (rows, heads), kv_heads = first.rule.threshold.shape, first.rest.keys.shape[1]
        from_start = None if not any(starts) else torch.tensor(starts, dtype=torch.int32, device=device)
        self._span = Span(torch.empty(rows, dtype=torch.int32, device=device), from_start)
        self._alive, self._counted = (torch.empty(rows, dtype=torch.bool, device=device) for _ in range(2))
        self._queries = torch.empty(rows, dtype=torch.int64, device=device)
        self._heads, self._groups = (self._queries.new_empty(len(layers), rows, n) for n in (heads, kv_heads))
        self._labels: dict[int, Tensor] = {}
        self._begin(starts, length)

    def _begin(self, starts: Sequence[int], length: int) -> None:
        """Nothing is counted yet."""
        firsts = torch.tensor(starts, dtype=torch.int32)
        if self._span.starts is not None:
            self._span.starts.copy_(firsts)
        self._span.lengths.copy_(length - firsts)
        self._alive.fill_(True)
        for sums in (self._queries, self._heads, self._groups):
            sums.zero_()

    def again(self, layers: Mapping[int, LayerState], starts: Sequence[int], length: int) -> bool:
        """Start behind another boundary in the same memory, which a graph may know; False: its shapes are others."""
        if len(starts) != len(self._queries) or any(starts) != (self._span.starts is not None):
            return False
        if self._queries.is_inference() != torch.is_inference_mode_enabled():
            return False  # PyTorch writes to tensors of inference mode only there
        found = [(self.layers[layer], layers[layer]) for layer in self.layers]
        pairs = [pair for before, now in found for pair in zip_longest(_parts(before), _parts(now))]
        if not all(_alike(old, new) for old, new in pairs):
            return False
        for old, new in pairs:
            if isinstance(old, Tensor):
                old.copy_(new)
        self._begin(starts, length)
        return True

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, ids: Tensor | None) -> None:
        """Announce a query of every row: the tokens [B, 1], None where they are unknown."""
        self._span.lengths.add_(1)
        self._span.pages.clear()
        if ids is not None:
            self._alive.logical_and_((ids != self._stops).all(1))
        torch.logical_and(self._span.lengths > self.window.sink + self.window.recent, self._alive, out=self._counted)

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one query of every row over all keys or its window, [B, H, 1, D]."""
        state, dtype = self.layers[layer], query.dtype
        query = query[:, :, 0].to(state.rest.keys.dtype).contiguous()
        attend = _by_kernels if state.by_kernels else _by_reference
        decoded = attend(state, query, (key, value), self._span.on(key.device), self.window)
        self._labels[layer] = decoded.long
        return decoded.output[:, :, None].to(dtype)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def count(self) -> None:
        """Add the labels of a query, behind its last layer."""
        labels = torch.stack([self._labels[layer].to(self._stops.device) for layer in self.layers])
        local = ~labels & self._counted[:, None]
        self._queries.add_(self._counted)
        self._heads.add_(local)
        self._groups.add_(local.view(*self._groups.shape, -1).all(3))
        self._span.pages.clear()  # what a step made is not kept beyond it

    def counts(self) -> LocalCounts:
        """Labels given so far; waits for nothing."""
        return LocalCounts.summed(self.layers, self._queries.clone(), self._heads, self._groups)


def _parts(state: LayerState) -> Iterator[Any]:
    """Tensors and numbers of a layer's state, in a fixed order; its workspace is no part of it."""
    for name in ("rest", "means", "outliers", "rule"):
        part = getattr(state, name)
        yield type(part)
        if part is not None:
            yield from (getattr(part, one.name) for one in fields(part))
    yield from (state.scale, state.by_kernels)


def _alike(old: Any, new: Any) -> bool:
    """Whether one can be written over the other."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)
    return bool(old == new)


def _by_kernels(state: LayerState, query: Tensor, pair: Pair, span: Span, window: Window) -> Decided:
    """Rows that start behind padding are read in place, as pages."""
    from headscope.kernels.decode.attend import Workspace, attend_step  # Triton is no part of a CPU build of torch
    from headscope.kernels.decode.update_clusters import update_clusters

    cache = Cache(*pair, span.lengths) if span.starts is None else _paged(*pair, span)
    given = state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    # Triton launches on the current GPU, which may not be this layer's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        if state.workspace is None:
            state.workspace = Workspace.of(query, pair[0].shape[1])
        if state.means is not None:
            update_clusters(cache, state.rest, state.means, window.sink, window.recent)
        return attend_step(query, cache, *given, state.workspace)


def _by_reference(state: LayerState, query: Tensor, pair: Pair, span: Span, window: Window) -> Decided:
    """Rows that start behind padding are copied to the front."""
    keys, values = (x.to(query.dtype) for x in pair)
    if span.starts is not None:
        starts = span.starts.tolist()
        moved = [[row.roll(-first, 1) for row, first in zip(x, starts, strict=True)] for x in (keys, values)]
        keys, values = (torch.stack(rows) for rows in moved)
    cache = Cache(keys, values, span.lengths)
    if state.means is not None:
        reference.update_clusters(cache, state.rest, state.means, window.sink, window.recent)
    given = state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    return reference.attend_step(query, cache, *given)


def _paged(keys: Tensor, values: Tensor, span: Span) -> Cache:
    """The same memory as pages: page n starts at key n of all memory, and the KV heads of a page lie T keys apart."""
    kv_heads, most, dim = keys.shape[1:]
    page, stride = min(PAGE, most), keys.stride(2)
    paged = [x.as_strided((1, kv_heads, page, dim), (stride, x.stride(1), stride, 1)) for x in (keys, values)]
    like = most, keys.stride()
    if like not in span.pages:
        span.pages[like] = _pages(span, keys.stride(0) // stride, most, page)
    return Cache(paged[0], paged[1], span.lengths, span.pages[like])


def _pages(span: Span, apart: int, most: int, page: int) -> Tensor:
    """Pages of each row, whose keys lie so many keys of memory apart, int32 [B, pages of a row]."""
    assert span.starts is not None
    device = span.lengths.device
    first = span.starts + torch.arange(len(span.starts), device=device) * apart
    return (first[:, None] + torch.arange(0, most, page, device=device)).int()
