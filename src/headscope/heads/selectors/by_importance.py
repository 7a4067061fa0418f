"""Keys that were important at the boundary, by a rule for outliers, whatever the query: no index is read to choose.

What a rule gives is a known method with a budget: `recent` StreamingLLM (arXiv 2309.17453) with a larger window,
`last_queries` SnapKV (arXiv 2404.14469), `probe_attention` what other prompts' questions and answers attend to.

Shapes: R rows, K KV heads, G query heads of each, Q queries, N bulk keys, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.outliers import importance
from headscope.heads.selectors import Choice, ranks

PLAN = {"options": {"rule": {"type": "str", "help": "rule for outliers that measures importances"}}}


@dataclass(frozen=True)
class ByImportance:
    """Reads the keys of the largest importance.

    Attributes:
        rule: for outliers.
    """

    rule: str

    def index(self, bulk: Bulk) -> Tensor:
        """Rank the keys, [K, N]."""
        return ranks(importance(self.rule, bulk))

    def choose(self, query: Tensor, window_mass: Tensor, index: Tensor, most: Tensor, scale: float) -> Choice:
        """Choose the best keys."""
        return Choice(index[:, None, None] < most.floor()[..., None])

    def index_bytes(self, keys: int, head_dim: int) -> float:
        """Return zero: the choice is made at the boundary."""
        return 0.0


def build(spec: Mapping[str, Any]) -> ByImportance:
    """Make the selector."""
    return ByImportance(spec["rule"])
