"""Output correction: a local head is given the bulk's estimated output by its estimated mass, instead of losing it.

Labels are those of the criterion without it: what would still be lost, the distance of the estimate from the true
output, cannot be known without reading the bulk.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.criteria import Correction, Criterion, Selection
from headscope.heads.estimators import ValueEstimator
from headscope.heads.view import LayerView


@dataclass(frozen=True)
class Corrected:
    """A criterion whose local pairs are corrected.

    Attributes:
        criterion: labels the pairs.
        estimator: its own, of the bulk's log mass and mean value.
    """

    criterion: Criterion
    estimator: ValueEstimator

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """The criterion's labels, with the estimate for its local pairs; the bulk's keys are not read."""
        mass = view.estimated_mass(self.estimator, query)
        value = view.estimated_output(self.estimator, query)
        return replace(self.criterion.select(query, view), correction=Correction(value, mass))

    def take(self, rows: Tensor) -> "Corrected":
        """Keep these of the criterion's rows."""
        return replace(self, criterion=self.criterion.take(rows))


def build(criterion: Criterion) -> Corrected:
    """Correct a criterion.

    Raises:
        ConfigError: it has no estimator, or one that does not know the bulk's values.
    """
    if not isinstance(criterion.estimator, ValueEstimator):
        raise ConfigError(
            "criterion option correction needs an `estimator` that knows values; choose a criterion of kind qada or"
            " lost_output with one of conf/estimator, or leave correction out"
        )
    return Corrected(criterion, criterion.estimator)
