"""Margins and exact labels of every pair of a split, from oracle tables or margin tables.

Shapes: N rows (layer, query) of one prompt, H query heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from headscope.pipeline.store.parents import Parents
from headscope.pipeline.store.tables import read_estimates, read_margins, read_masses

Array = NDArray[Any]


@dataclass
class Pairs:
    """Pairs (query, head) of a split, one entry a prompt.

    Attributes:
        layer: layer of each row, [N].
        query: position of its query, [N].
        margin: the criterion's margin, before any map, [N, H].
        exact: exact log-odds of the share of the criterion's own window, [N, H].
        lost: exact log norm of the lost output, [N, H]; only from margin tables.
    """

    layer: list[Array] = field(default_factory=list)
    query: list[Array] = field(default_factory=list)
    margin: list[Array] = field(default_factory=list)
    exact: list[Array] = field(default_factory=list)
    lost: list[Array] = field(default_factory=list)


def read_pairs(spec: Mapping[str, Any], parents: Parents, split: str) -> Pairs:
    """Read the pairs of one split, of the tasks that could be drawn.

    Args:
        spec: criterion, estimator (a name or null) and optionally prompts: how many of each task's calibration prompts.
        parents: margins nodes or oracle nodes.
        split: "evaluation" or "calibration".

    Raises:
        LengthError: no task could be drawn.
    """
    reader = f"criterion {spec['criterion']}, calibrated at {spec['length']:,} tokens"
    pairs, count = Pairs(), spec.get("prompts") if split == "calibration" else None
    for parent in parents.drawn("margins", reader):
        for margins in islice(read_margins(parent.folder, spec["criterion"], split), count):
            for name in ("layer", "query", "margin", "exact", "lost"):
                getattr(pairs, name).append(getattr(margins, name))
    for parent in parents.drawn("oracle", reader):
        masses = list(islice(read_masses(parent.folder, split), count))
        bulk = {m.prompt: m.bulk for m in masses}
        if spec["estimator"] is not None:
            bulk = read_estimates(parent.folder, spec["estimator"], set(bulk))
        pairs.layer += [m.layer for m in masses]
        pairs.query += [m.query for m in masses]
        pairs.margin += [m.local - bulk[m.prompt] for m in masses]
        pairs.exact += [m.local - m.bulk for m in masses]
    return pairs
