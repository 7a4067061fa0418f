"""Cost of a criterion beyond the plain window: bytes of outliers and summaries that a query reads, and multiply-adds.

Outlier keys and values are as wide as the model's, or quantised; summaries are float32, as they are computed with.
Bytes are counted in windows: the bytes of a window's keys and values.
"""

from collections.abc import Mapping
from typing import Any

from headscope.heads import registry
from headscope.heads.quantised import vectors_bytes
from headscope.heads.window import Window

SUMMARY_BYTES = 4


def beyond_window(criterion: Mapping[str, Any], window: Window, head_dim: int, keys: int, width: int = 2) -> float:
    """Return the bytes that a query reads beyond its window over the bytes of the window, for a mean KV head.

    Args:
        criterion: `kind`; `estimator` and `outliers`, each None where there is none.
        window: the plain window.
        head_dim: size of a head.
        keys: bulk keys; only costs that grow with T use it.
        width: bytes of a number of the model.
    """
    of_window = (window.sink + window.recent) * 2 * head_dim * width
    estimator, outliers = criterion["estimator"], criterion["outliers"]
    read = 0.0 if outliers is None else 2 * vectors_bytes(outliers["count"], outliers["bits"], head_dim, width)
    if estimator is not None:
        values = registry.criterion(criterion["kind"]).measures == "loss"
        read += SUMMARY_BYTES * summary_numbers(estimator, head_dim, keys, values)
    return read / of_window


def summary_numbers(estimator: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Return the float32 numbers that a query reads of an estimator's summary of one KV head.

    Args:
        estimator: `kind` and its options.
        head_dim: size of a head.
        keys: bulk keys; only summaries that grow with T use it.
        values: with the numbers of the bulk's output.
    """
    numbers: float = _module(estimator).numbers(estimator, head_dim, keys, values)
    return numbers


def multiply_adds(estimator: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Return the multiply-adds of one query of one head; arguments as of `summary_numbers`."""
    multiply_adds: float = _module(estimator).multiply_adds(estimator, head_dim, keys, values)
    return multiply_adds


def _module(estimator: Mapping[str, Any]) -> Any:
    return registry.load("estimators", estimator["kind"])
