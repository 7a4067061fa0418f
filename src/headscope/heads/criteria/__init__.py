"""Criteria: which heads read the long context for a query. One file each, found by name.

Shapes: B rows of one criterion, H query heads, Q queries, D head_dim.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads import estimators, registry
from headscope.heads.boundary_state import FROZEN
from headscope.heads.calibration.maps import MarginMap
from headscope.heads.decision import HEAD, LOSS
from headscope.heads.estimators import Estimator, ValueEstimator
from headscope.heads.outliers import OutlierRule
from headscope.heads.reading import decision_bytes
from headscope.heads.view import LayerView


@dataclass(frozen=True)
class Criterion:
    """Labels a pair long where its margin for being local stays below the row's threshold.

    A subclass in a file of its own says what the margin is; the module's `CRITERION` names it.

    Attributes:
        thresholds: of each row, [B], float64, in the unit of the calibrated margin.
        estimator: of the bulk; None: the margin needs none.
        map: calibrates each head's margin.
        unit: "head" decides each query head, "group" all heads of a KV head together.
        summaries: "frozen" or "streaming": what the estimator's summaries do behind the boundary.
        measures: what the margin measures (`headscope.heads.registry`), as the module's `PLAN` says.
        fixed: whether the margin depends on no query, so that labels of a head are made once.
    """

    fixed: ClassVar[bool] = False

    thresholds: Tensor
    estimator: Estimator | None = None
    map: MarginMap = field(default_factory=lambda: MarginMap({}))
    unit: str = HEAD
    summaries: str = FROZEN
    measures: str | None = None

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Measure how well each pair can do with its window, before any map, for queries [B, H, Q, D]: [B, H, Q]."""
        raise NotImplementedError

    def summary_numbers(self, head_dim: int) -> float:
        """Count the float32 numbers of a KV head's summary that one decision reads."""
        return 0.0 if self.estimator is None else self.estimator.numbers(head_dim, self.measures == LOSS)

    def take(self, rows: Tensor) -> Self:
        """Keep these of the rows (indices), after others have stopped."""
        return replace(self, thresholds=self.thresholds[rows])

    @classmethod
    def calibrated(cls, targets: Sequence[Mapping[str, Any]], **options: Any) -> Self:
        """Make the criterion with one row a target, of which calibration found a `threshold` and maybe a `map`."""
        thresholds = torch.tensor([target.get("threshold", 0.0) for target in targets], dtype=torch.float64)
        return cls(thresholds, map=MarginMap.of(targets[0]), **options)


def mean_decision_bytes(spec: Mapping[str, Any], head_dim: int) -> float:
    """Return the bytes that a decision reads of a KV head beside the plain window, in the mean over KV heads.

    Args:
        spec: `kind`, `estimator` and `outliers` of a criterion's slice.
        head_dim: D.
    """
    numbers, outliers = 0.0, OutlierRule(**(spec["outliers"] or {}))
    if spec["estimator"] is not None:
        any_text: Mapping[str, Any] = defaultdict(lambda: None)  # sizes do not depend on another text's moments
        estimator = estimators.build(spec["estimator"], any_text)
        numbers = estimator.numbers(head_dim, registry.criterion(spec["kind"]).measures == LOSS)
    return float(decision_bytes(torch.tensor(outliers.count), outliers.bits, numbers, head_dim))


def build(spec: Mapping[str, Any], targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Criterion:
    """Make the criterion that a slice of the configuration names.

    Args:
        spec: `kind`; `unit` and `summaries`, where they are not the defaults.
        targets: what calibration found, one entry a row: a `threshold` of the margin, calibrated by a `map` where
            there is one, or the labels `long` of `layers`.
        estimator: the estimator that the slice names.

    Raises:
        ConfigError: the criterion needs an estimator that it was not given, or one that knows values.
    """
    plan = registry.criterion(spec["kind"])
    kind: type[Criterion] = registry.load("criteria", spec["kind"]).CRITERION
    knows_enough = isinstance(estimator, ValueEstimator) if plan.measures == LOSS else estimator is not None
    if "estimator" in plan.needs and not knows_enough:
        of_what = " that knows the bulk's values" if plan.measures == LOSS else ""
        raise ConfigError(f"criterion kind {spec['kind']} needs an `estimator`{of_what}; name one of conf/estimator")
    options = {name: spec[name] for name in ("unit", "summaries") if name in spec}
    return kind.calibrated(targets, estimator=estimator, measures=plan.measures, **options)
