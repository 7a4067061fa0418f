"""One dense pass over prompt and answer in which every criterion is asked for its margins.

The state is that of generation, so that what calibration fits is what decides later: outliers and summaries are frozen
at the boundary (`scope=prompt`: at each chunk's start too), and one function gives the margin.

Shapes: H query heads, Q recorded queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.heads.bulk import LayerCache
from headscope.heads.criteria import MarginCriterion
from headscope.heads.criteria.lost_output import log_lost_output
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.lab.prefill import prefill_by_chunks
from headscope.lab.probes import ModelProbes
from headscope.lab.scope import recorded_positions, summary_positions
from headscope.lab.shared_prefix import Rows, Scored, SharedPrefix
from headscope.models.attention import attention


@dataclass(frozen=True)
class LayerMargins:
    """One criterion in one layer.

    Attributes:
        margin: as the criterion sees it, [H, Q].
        exact: exact log-odds of the share of the criterion's own window, [H, Q]; +inf without a bulk.
        lost: exact log norm of the output that calling the head local loses, as a share of the residual stream's norm
            with the criterion's own window, [H, Q]; -inf without a bulk.
    """

    margin: Tensor
    exact: Tensor
    lost: Tensor


class _Recorder(SharedPrefix):
    """All groups look at the same one row, which attends densely."""

    def __init__(
        self,
        prefix: Sequence[LayerCache],
        groups: Sequence[Rows],
        window: Window,
        positions: Tensor,
        found: Sequence[dict[int, list[LayerMargins]]],
    ):
        super().__init__(prefix, groups, window)
        self.positions, self.found = positions, found

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        for group in self.groups:
            yield group, slice(0, 1)

    def _decided(self, scored: Scored) -> Tensor:
        """Ask about the recorded queries; every one reads every key."""
        asked = torch.isin(scored.position, self.positions.to(scored.position.device))
        if asked.any():
            self._record(_some(scored, asked))
        return self._whole(scored)

    def _record(self, scored: Scored) -> None:
        for (group, rows), found in zip(self._spans(), self.found, strict=True):
            view = self._view(scored, group, rows)
            margin = group.criterion.margin(scored.query[rows], view)  # type: ignore[attr-defined]
            mass = view.bulk_mass()
            exact, lost = view.window_mass - mass, self._lost(view, mass)
            found.setdefault(scored.call.layer, []).append(LayerMargins(margin[0], exact[0], lost[0]))

    def _lost(self, view: LayerView, mass: Tensor) -> Tensor:
        probes = self.prefix[view.layer].probes
        weight = torch.ones(1) if probes is None else probes.weight
        lost = log_lost_output(view.window_mass, view.window_output(), mass, view.bulk_output())
        return lost + weight.to(lost.device).log()[:, None]


@torch.inference_mode()
def margins(
    model: PreTrainedModel,
    ids: Sequence[int],
    boundary: int,
    criteria: Sequence[Rows],
    window: Window,
    probes: ModelProbes | None,
    chunk: int | None = None,
) -> list[dict[int, LayerMargins]]:
    """Margins of each criterion by full-attention layer, on one sequence.

    Args:
        model: in evaluation mode.
        ids: the prompt's tokens and those of the dense answer that were read again.
        boundary: first token of the question.
        criteria: one row each, all with margins.
        window: the local window, without outliers.
        probes: of the model, where rules for outliers ask for them.
        chunk: with `scope=prompt`, tokens of a chunk of the context; the queries are those of `scope.recorded`.
    """
    assert all(isinstance(group.criterion, MarginCriterion) for group in criteria)
    found: list[dict[int, list[LayerMargins]]] = [{} for _ in criteria]
    positions = recorded_positions(window, boundary, len(ids), chunk)
    groups = [group.on(model.get_input_embeddings().weight.device) for group in criteria]
    attending = partial(_Recorder, groups=groups, window=window, positions=positions, found=found)
    with attention(model):
        prefill_by_chunks(model, ids, [*summary_positions(window, boundary, chunk), len(ids)], attending, probes)
    return [{layer: _joined(parts) for layer, parts in layers.items()} for layers in found]


def _some(scored: Scored, asked: Tensor) -> Scored:
    """Some of the queries, bool [Q]."""
    masks = {name: getattr(scored, name)[asked] for name in ("position", "local", "bulk", "bulk_size")}
    narrow = {name: getattr(scored, name)[:, :, asked] for name in ("query", "scores")}
    return replace(scored, **narrow, **masks, windowed={})


def _joined(parts: Sequence[LayerMargins]) -> LayerMargins:
    """Put the chunks of queries together."""
    return LayerMargins(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("margin", "exact", "lost")))
