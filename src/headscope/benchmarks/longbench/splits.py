"""Splits of a data set: criteria are calibrated on some rows and scored on the others."""

import hashlib
import zlib
from collections.abc import Sequence

from headscope.benchmarks.row import Request
from headscope.benchmarks.task import Split
from headscope.errors import ConfigError

# One row of four is for calibration, wherever there is any.
CALIBRATION_EVERY = 4


def is_calibration(name: str) -> bool:
    """Tell by its name whether a row (a module of the standard library, ...) is calibration material."""
    return zlib.crc32(name.encode()) % CALIBRATION_EVERY == 0


def choose(names: Sequence[str], request: Request) -> dict[Split, list[int]]:
    """Return the indices of the rows of each split, in the file's order; `names` are their ids.

    Without calibration all rows are scored. A split takes at most as many rows as the request wants: those with the
    smallest digest of seed and id, so another file order chooses the same rows.

    Raises:
        ConfigError: a split that the request wants has no row.
    """
    alone = request.samples["calibration"] == 0
    pools: dict[Split, list[int]] = {
        "evaluation": [i for i, name in enumerate(names) if alone or not is_calibration(name)],
        "calibration": [i for i, name in enumerate(names) if not alone and is_calibration(name)],
    }
    for split, pool in pools.items():
        if request.samples[split] and not pool:
            raise ConfigError(
                f"task {request.task}: none of its {len(names)} rows is for {split}; set samples.calibration=0 and "
                "calibrate on another benchmark, or give the whole data set"
            )
    return {split: _chosen(pool, request.samples[split], names, request.seed) for split, pool in pools.items()}


def _chosen(pool: list[int], count: int, names: Sequence[str], seed: int) -> list[int]:
    def rank(index: int) -> str:
        return hashlib.sha256(f"{seed}/{names[index]}".encode()).hexdigest()

    return sorted(sorted(pool, key=rank)[:count])
