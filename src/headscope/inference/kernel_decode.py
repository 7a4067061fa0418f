"""A batch that decodes by the kernels, one query of every row at a time.

With streaming summaries a key that leaves the window joins its cluster. All that changes from step to step is a tensor
updated in place, so that a CUDA graph can hold a step.

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
from headscope.lab.counts import LayerCounts, ReadingCounts, Shares, Sizes

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
        """Move it to a layer's device."""
        if device == self.lengths.device:
            return self
        return Span(self.lengths.to(device), None if self.starts is None else self.starts.to(device))


class KernelDecode:
    """Rows of one batch from their boundary on; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: state of the full-attention layers.
    """

    def __init__(
        self, layers: Mapping[int, LayerState], starts: Sequence[int], length: int, sizes: Sizes, stops: Tensor
    ):
        """Start behind a boundary.

        Args:
            layers: as the boundary left them.
            starts: first key of each row that is no padding.
            length: keys of the cache, padding included.
            sizes: of the model and the window.
            stops: tokens that end a row's count, [stops]; on the device of the model's inputs.
        """
        self.layers, self._sizes, self._stops = layers, sizes, stops.clone()
        rows, device = len(starts), stops.device
        from_start = None if not any(starts) else torch.tensor(starts, dtype=torch.int32, device=device)
        self._span = Span(torch.empty(rows, dtype=torch.int32, device=device), from_start)
        self._alive, self._counted = (torch.empty(rows, dtype=torch.bool, device=device) for _ in range(2))
        # Over queries: those counted, visible keys [B]; local heads, local groups, keys of bulks that were read [L, B].
        self._queries, self._keys = (torch.empty(rows, dtype=torch.int64, device=device) for _ in range(2))
        by_layer = len(layers), rows
        self._heads, self._groups, self._bulk_keys = (self._queries.new_empty(by_layer) for _ in range(3))
        self._labels: dict[int, Tensor] = {}
        self._begin(starts, length)

    def _begin(self, starts: Sequence[int], length: int) -> None:
        """Set all sums to zero and the rows to their boundary."""
        firsts = torch.tensor(starts, dtype=torch.int32)
        if self._span.starts is not None:
            self._span.starts.copy_(firsts)
        self._span.lengths.copy_(length - firsts)
        self._alive.fill_(True)
        for sums in (self._queries, self._keys, self._heads, self._groups, self._bulk_keys):
            sums.zero_()

    def again(self, layers: Mapping[int, LayerState], starts: Sequence[int], length: int, stops: Tensor) -> bool:
        """Start behind another boundary in the same memory, which a graph may know; False if its shapes differ."""
        if len(starts) != len(self._queries) or any(starts) != (self._span.starts is not None):
            return False
        if stops.shape != self._stops.shape:
            return False
        if self._queries.is_inference() != torch.is_inference_mode_enabled():
            return False  # PyTorch writes to tensors of inference mode only there
        states = [(self.layers[layer], layers[layer]) for layer in self.layers]
        pairs = [pair for before, now in states for pair in zip_longest(_parts(before), _parts(now))]
        if not all(_alike(old, new) for old, new in pairs):
            return False
        for old, new in pairs:
            if isinstance(old, Tensor):
                old.copy_(new)
        self._stops.copy_(stops)
        self._begin(starts, length)
        return True

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, ids: Tensor | None) -> None:
        """Announce a query of every row: the tokens [B, 1], None where they are unknown."""
        window = self._sizes.window
        self._span.lengths.add_(1)
        self._span.pages.clear()
        if ids is not None:
            self._alive.logical_and_((ids != self._stops).all(1))
        torch.logical_and(self._span.lengths > window.sink + window.recent, self._alive, out=self._counted)

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute attention of one query of every row over all keys or its window, [B, H, 1, D]."""
        state, dtype = self.layers[layer], query.dtype
        query = query[:, :, 0].to(state.summary.keys.dtype).contiguous()
        decided = decide_and_attend(state, query, (key, value), self._span.on(key.device), self._sizes.window)
        self._labels[layer] = decided.long
        return decided.output[:, :, None].to(dtype)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def count(self) -> None:
        """Add what the kernels labelled at a query, behind its last layer."""
        long = torch.stack([self._labels[layer].to(self._stops.device) for layer in self.layers])
        window, lengths = self._sizes.window, self._span.lengths
        groups = long.view(*self._heads.shape, self._sizes.kv_heads, -1).any(3)
        self._queries.add_(self._counted)
        self._keys.add_(self._counted * lengths)
        self._heads.add_((~long).sum(2) * self._counted)
        self._groups.add_((~groups).sum(2) * self._counted)
        self._bulk_keys.add_(groups.sum(2) * (self._counted * (lengths - window.sink - window.recent)))
        self._span.pages.clear()  # what a step made is not kept beyond it

    def shares(self) -> list[Shares]:
        """Compute what each row read so far."""
        sums = {
            layer: LayerCounts(self._queries, self._heads[i], self._groups[i], self._keys, self._bulk_keys[i])
            for i, layer in enumerate(self.layers)
        }
        costs = {layer: state.decision_bytes for layer, state in self.layers.items()}
        return ReadingCounts.of(self._sizes, sums, costs).shares()


def decide_and_attend(state: LayerState, query: Tensor, pair: Pair, span: Span, window: Window) -> Decided:
    """Run the kernels for queries [B, H, D]; rows that start behind padding are read in place, as pages."""
    from headscope.kernels.decode.attend import Workspace, attend_step  # Triton is no part of a CPU build of torch
    from headscope.kernels.decode.update_clusters import update_clusters

    sink, recent = window.sink, window.recent
    cache = Cache(*pair, span.lengths) if span.starts is None else _paged(*pair, span)
    # Triton launches on the current GPU, which may not be this layer's.
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        if state.workspace is None:
            state.workspace = Workspace.of(query, pair[0].shape[1])
        if state.means is not None:
            update_clusters(cache, state.summary, state.means, sink, recent)
        inputs = state.summary, state.rule, sink, recent, state.scale, state.outliers
        return attend_step(query, cache, *inputs, state.workspace)


def _parts(state: LayerState) -> Iterator[Any]:
    """Yield tensors and numbers of a layer's state, in a fixed order; its workspace is no part of it."""
    for name in ("summary", "means", "outliers", "rule"):
        part = getattr(state, name)
        yield type(part)
        if part is not None:
            yield from (getattr(part, one.name) for one in fields(part))
    yield from (state.scale, state.decision_bytes)


def _alike(old: Any, new: Any) -> bool:
    """Return True if one can be written over the other."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)
    return bool(old == new)


def _paged(keys: Tensor, values: Tensor, span: Span) -> Cache:
    """Describe the memory as pages: page n starts at key n of all memory, the KV heads of a page lie T keys apart."""
    kv_heads, most, dim = keys.shape[1:]
    page, stride = min(PAGE, most), keys.stride(2)
    paged = [x.as_strided((1, kv_heads, page, dim), (stride, x.stride(1), stride, 1)) for x in (keys, values)]
    like = most, keys.stride()
    if like not in span.pages:
        span.pages[like] = _pages(span, keys.stride(0) // stride, most, page)
    return Cache(paged[0], paged[1], span.lengths, span.pages[like])


def _pages(span: Span, apart: int, most: int, page: int) -> Tensor:
    """List the pages of each row, whose keys lie so many keys of memory apart, int32 [B, pages of a row]."""
    assert span.starts is not None
    device = span.lengths.device
    first = span.starts + torch.arange(len(span.starts), device=device) * apart
    return (first[:, None] + torch.arange(0, most, page, device=device)).int()
