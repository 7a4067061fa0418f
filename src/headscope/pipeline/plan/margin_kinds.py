"""Which criteria have margins, and of which they are recorded because oracle tables do not tell them."""

import dataclasses

from headscope.heads import registry
from headscope.pipeline.config.schema import Criterion
from headscope.pipeline.plan.node import asks_probes


def needs_recording(criterion: Criterion) -> bool:
    """Return whether a criterion's margins are recorded: oracle tables know shares, the plain window and no probes."""
    own = criterion.outliers is not None or registry.criterion(criterion.kind).measures in ("loss", "own")
    return own or asks_probes(dataclasses.asdict(criterion))


def recorded_kind(criterion: Criterion) -> str:
    """Return the kind whose margins are recorded: a ranking with outliers ranks heads by the exact share there."""
    ranked_by = registry.criterion(criterion.kind).ranked_by
    return ranked_by if ranked_by is not None and criterion.outliers is not None else criterion.kind


def has_margins(criterion: Criterion) -> bool:
    """Return whether there are margins to record."""
    return registry.criterion(recorded_kind(criterion)).measures is not None


def default_fit(kind: str) -> str:
    """Return the fit of a criterion that names none: lost outputs match energies."""
    return "energy" if registry.criterion(kind).measures == "loss" else "none"
