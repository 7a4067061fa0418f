"""One dense pass over prompt and answer in which every criterion is asked for its margins.

The state is that of generation, so that what calibration fits is what decides later: outliers and summaries are made
at the boundary (`scope=prompt`: at each chunk's start too), summaries that stream go on from there, and one function
gives the margin.

Shapes: H query heads, Q recorded queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from headscope.heads.boundary_state import STREAMING
from headscope.heads.bulk import LayerCache
from headscope.heads.criteria.lost_output import log_lost_output
from headscope.heads.outliers import OutlierRule
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.lab.prefill import forward, prefill_by_chunks
from headscope.lab.probes import ModelProbes
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows
from headscope.lab.scope import recorded_positions, summary_positions
from headscope.lab.shared_prefix import SharedPrefix
from headscope.lab.visible import Visible
from headscope.models.attention import attention
from headscope.models.rotary import refuse_changing_factors


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
    """Records the margins of all criteria on one row, which attends densely."""

    def __init__(
        self,
        prefix: Sequence[LayerCache],
        groups: Sequence[Rows],
        window: Window,
        positions: Tensor,
        answer: int,
        records: Sequence[dict[int, list[LayerMargins]]],
    ):
        super().__init__(prefix, groups, window)
        self.positions, self.answer, self.records = positions, answer, records
        self.streams = any(group.criterion.summaries == STREAMING for group in groups)
        self._known_steps: dict[tuple[int, int], list[tuple[int, Tensor | None]]] = {}

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Let all groups look at the same row."""
        for group in self.groups:
            yield group, slice(0, 1)

    def _decided(self, queries: LayerQueries) -> Tensor:
        """Record the chosen queries; every query reads every key."""
        # Products of numbers that lie in another order are rounded otherwise.
        queries = replace(queries, query=queries.query.contiguous())
        assert isinstance(queries.visible, Visible)
        for first, chosen in self._steps(queries.visible):
            self.stream(queries.call, first)
            self._record(queries if chosen is None else queries.at(chosen))
        bulk = queries.bulk()
        return (queries.window if bulk is None else queries.window.joined(bulk)).output

    def _steps(self, visible: Visible) -> list[tuple[int, Tensor | None]]:
        """Return the chosen queries in the steps of generation: the prompt's together, the answer's one by one.

        All layers have the same. A step is its first position and which of the queries it takes, bool [Q]; None: all.
        """
        if visible.ends not in self._known_steps:
            position = visible.position
            chosen = position[torch.isin(position, self.positions.to(position.device))]
            prompt = chosen[chosen < self.answer] if self.streams else chosen
            steps = [step for step in (prompt, *torch.split(chosen[len(prompt) :], 1)) if len(step)]
            self._known_steps[visible.ends] = [
                (int(step[0]), None if len(step) == len(position) else torch.isin(position, step)) for step in steps
            ]
        return self._known_steps[visible.ends]

    def _record(self, queries: LayerQueries) -> None:
        exact: dict[OutlierRule, tuple[LayerView, Tensor, Tensor]] = {}  # with the same outliers the bulk is the same
        for index, ((group, row), record) in enumerate(zip(self._spans(), self.records, strict=True)):
            view = self.view(queries, index, row)
            if group.outliers not in exact:
                mass = view.exact_mass()
                exact[group.outliers] = view, view.window_mass - mass, self._lost(view, mass)
            first, *truth = exact[group.outliers]
            view = replace(view, exact_mass=first.exact_mass, exact_output=first.exact_output)
            margins = group.criterion.margin(queries.query[row], view), *truth
            record.setdefault(queries.call.layer, []).append(LayerMargins(*(x[0] for x in margins)))

    def _lost(self, view: LayerView, mass: Tensor) -> Tensor:
        probes = self.prefix[view.layer].probes
        weight = torch.ones(1) if probes is None else probes.weight
        lost = log_lost_output(view.window_mass, view.window_output, mass, view.exact_output())
        return lost + weight.to(lost.device).log()[:, None]


@torch.inference_mode()
def margins(
    model: PreTrainedModel,
    ids: Sequence[int],
    boundary: int,
    criteria: Sequence[Rows],
    window: Window,
    probes: ModelProbes | None,
    answer: int,
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
        answer: first token of the answer, from which on generation feeds one token at a time.
        chunk: with `scope=prompt`, tokens of a chunk of the context; the queries are those of `recorded_positions`.
    """
    records: list[dict[int, list[LayerMargins]]] = [{} for _ in criteria]
    positions = recorded_positions(window, boundary, len(ids), chunk)
    groups = [group.on(model.get_input_embeddings().weight.device) for group in criteria]
    attending = partial(_Recorder, groups=groups, window=window, positions=positions, answer=answer, records=records)
    with attention(model):
        prefix = prefill_by_chunks(model, ids, summary_positions(window, boundary, chunk), attending, probes)
        refuse_changing_factors(model, boundary, len(ids))
        forward(model, torch.tensor([ids[boundary:]]), boundary, DynamicCache(), attending(prefix))
    return [{layer: _joined(parts) for layer, parts in layers.items()} for layers in records]


def _joined(parts: Sequence[LayerMargins]) -> LayerMargins:
    """Put the chunks of queries together."""
    if len(parts) == 1:
        return parts[0]
    return LayerMargins(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("margin", "exact", "lost")))
