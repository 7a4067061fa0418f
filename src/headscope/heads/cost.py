"""What a criterion reads beyond the plain window: outliers and summaries, in windows (bytes of its keys and values).

Outlier keys and values are as wide as the model's, or quantised; summaries are float32, as they are computed with.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from headscope.heads.quantised import vectors_bytes
from headscope.heads.window import Window

SUMMARY_BYTES = 4


def beyond_window(criterion: Mapping[str, Any], window: Window, head_dim: int, keys: int, width: int = 2) -> float:
    """Bytes that a query reads beyond its window over the bytes of the window, of one KV head.

    Args:
        criterion: `estimator` and `outliers`, each None where there is none.
        window: the plain window.
        head_dim: size of a head.
        keys: bulk keys; only costs that grow with T ask.
        width: bytes of a number of the model.
    """
    of_window = (window.sink + window.recent) * 2 * head_dim * width
    estimator, outliers = criterion["estimator"], criterion["outliers"]
    read = 0.0 if outliers is None else 2 * vectors_bytes(outliers["count"], outliers["bits"], head_dim, width)
    if estimator is not None:
        read += SUMMARY_BYTES * summary_numbers(estimator, head_dim, keys, values=criterion["kind"] == "lost_output")
    return read / of_window


def summary_numbers(estimator: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers in an estimator's summary of one KV head; `values`: with those that tell the bulk's output."""
    module = import_module(f"headscope.heads.estimators.{estimator['kind']}")
    found: float = module.numbers(estimator, head_dim, keys, values)
    return found
