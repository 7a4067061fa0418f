"""Which criteria have margins, and of which they are recorded because oracle tables do not tell them."""

import dataclasses

from headscope.heads import registry
from headscope.pipeline.config.schema import Criterion
from headscope.pipeline.plan.node import asks_probes


def has_margins(criterion: Criterion) -> bool:
    """Return True if a criterion's margins are recorded: oracle tables know shares, the plain window and no probes."""
    streams = criterion.estimator is not None and criterion.summaries == "streaming"
    untold = registry.criterion(criterion.kind).measures in ("loss", "own")
    return criterion.outliers is not None or untold or streams or asks_probes(dataclasses.asdict(criterion))


def recorded_kind(criterion: Criterion) -> str:
    """Return the kind whose margins are recorded: with outliers, a ranking ranks heads by the exact share there."""
    ranked_by = registry.criterion(criterion.kind).ranked_by
    return ranked_by if ranked_by is not None and criterion.outliers is not None else criterion.kind
