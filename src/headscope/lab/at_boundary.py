"""Outliers and summaries of every layer at the boundary, on a GPU of several layers at once as if they were one.

Hundreds of small operations make a summary. A GPU takes longer to start them than to compute them.

Shapes: L layers taken together, H query heads, K KV heads, P prefix keys, M outliers, D head_dim.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.heads.boundary_state import BoundaryState, make_boundary_state
from headscope.heads.bulk import Bulk, LayerCache, Probes
from headscope.heads.estimators import Estimator
from headscope.heads.outliers import OutlierRule
from headscope.heads.to_device import joined, map_tensors

TOGETHER = {"cuda": 1 << 26}
"""Numbers of the keys of layers that are taken together, by the kind of device: 256 MiB in float32, and several times
that with values and clusters. Processors take layers one by one, which their caches hold."""


class AtBoundary(NamedTuple):
    """One layer.

    Attributes:
        state: its outliers, and the summaries of the other bulk keys.
        taken: which prefix keys are outliers, bool [K, P].
    """

    state: BoundaryState
    taken: Tensor


def at_boundary(
    layers: Iterable[LayerCache],
    ends: tuple[int, int],
    outliers: OutlierRule,
    estimators: Sequence[Estimator],
    group: int,
) -> dict[int, AtBoundary]:
    """Choose the outliers of every layer and summarise its other bulk keys, by the layer's index.

    Args:
        layers: with full attention.
        ends: first bulk key and the one behind the last.
        outliers: rule that chooses them.
        estimators: of the other keys.
        group: query heads of a KV head.
    """
    chunks = list(_chunks(layers, estimators))
    marked = outliers.marked(_Bulks(chunks, ends))
    result: dict[int, AtBoundary] = {}
    for chunk, (bulk, marks) in zip(chunks, marked, strict=True):
        state = make_boundary_state(bulk, marks, group, outliers.bits, estimators)
        taken = torch.zeros(bulk.cache.keys.shape[:2], dtype=torch.bool, device=marks.device)
        whole = AtBoundary(state, taken.scatter(1, bulk.index, marks))
        result |= {cache.layer: layer for cache, layer in zip(chunk, _split(whole, len(chunk)), strict=True)}
    return result


def _chunks(layers: Iterable[LayerCache], estimators: Sequence[Estimator]) -> Iterator[list[LayerCache]]:
    """Group layers whose KV heads can be those of one."""

    def alike(cache: LayerCache) -> tuple[torch.device, torch.Size, float, bool]:
        return cache.keys.device, cache.keys.shape, cache.scale, cache.probes is None

    # Moments of another text are those of one layer.
    apart = any(getattr(estimator, "moments", None) is not None for estimator in estimators)
    for (device, shape, *_), same in groupby(layers, alike):
        several, most = list(same), 0 if apart else TOGETHER.get(device.type, 0)
        step = max(1, most // max(1, shape.numel()))
        yield from (several[first : first + step] for first in range(0, len(several), step))


@dataclass(frozen=True)
class _Bulks:
    """Bulks of layers that are taken together, made anew each time: copies of all at once would double the cache."""

    chunks: Sequence[Sequence[LayerCache]]
    ends: tuple[int, int]

    def __iter__(self) -> Iterator[Bulk]:
        return (Bulk.between(_one_layer(chunk), *self.ends) for chunk in self.chunks)


def _one_layer(layers: Sequence[LayerCache]) -> LayerCache:
    """Make one layer of several: the KV heads of the first, then those of the next."""
    if len(layers) == 1:
        return layers[0]
    first, probes = layers[0], None
    if first.probes is not None:
        all_probes = [layer.probes for layer in layers if layer.probes is not None]
        probes = Probes(
            torch.cat([each.queries for each in all_probes]), torch.cat([each.weight for each in all_probes])
        )
    keys, values = torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers])
    queries = [layer.queries for layer in layers if layer.queries is not None]
    return replace(first, keys=keys, values=values, probes=probes, queries=torch.cat(queries) if queries else None)


def _split(whole: AtBoundary, layers: int) -> Iterator[AtBoundary]:
    """Cut what was made of several layers into each layer's."""
    if layers == 1:
        yield whole
        return
    most = whole.state.present.sum(1).view(layers, -1).amax(1).tolist()
    for index, count in enumerate(most):
        state, taken = map_tensors(whole, partial(_part, layers, index))
        lists = {name: getattr(state, name)[:, :count].contiguous() for name in ("keys", "values", "present")}
        yield AtBoundary(replace(state, **lists), taken)


def _part(layers: int, index: int, x: Tensor) -> Tensor:
    """Return one layer's part of a tensor [L K, ...]."""
    return x.chunk(layers)[index]


def joined_prompts(prompts: Sequence[AtBoundary], heads: int) -> AtBoundary:
    """Make one of the states of several prompts, with so many query heads each; its summaries can't be updated."""
    if len(prompts) == 1:
        return prompts[0]
    return joined([_with_count_of_each_head(prompt, heads, len(prompts)) for prompt in prompts])


def _with_count_of_each_head(prompt: AtBoundary, heads: int, prompts: int) -> AtBoundary:
    """Tell for each head how many outliers its window holds, [H, 1], since they may differ from prompt to prompt."""
    summaries = prompt.state.summaries
    if isinstance(summaries.outliers, int):
        counts = torch.full((heads, 1), summaries.outliers, device=prompt.taken.device)
        summaries = replace(summaries, outliers=counts)
    return prompt._replace(state=replace(prompt.state, summaries=replace(summaries, sets=prompts)))
