"""Which criteria have margins, and of which they are recorded because oracle tables do not tell them."""

import dataclasses

from headscope.pipeline.config.schema import Criterion
from headscope.pipeline.plan.node import LOST_OUTPUT, asks_probes

WITH_MARGINS = ("oracle", "qada", *LOST_OUTPUT)
"""Kinds of criteria that decide by one number a pair."""


def has_margins(criterion: Criterion) -> bool:
    """Whether a criterion's margins are recorded for it: oracle tables know the plain window and no probes."""
    streams = criterion.estimator is not None and criterion.summaries == "streaming"
    own = criterion.outliers is not None or criterion.kind in LOST_OUTPUT or streams
    return own or asks_probes(dataclasses.asdict(criterion))


def recorded_kind(criterion: Criterion) -> str:
    """The kind whose margins are recorded: a static list with outliers ranks heads by the exact share there."""
    return "oracle" if criterion.kind == "static" and criterion.outliers is not None else criterion.kind
