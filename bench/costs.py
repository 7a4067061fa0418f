"""Fit the table of `headscope.pipeline.plan.costs` to finished results, and say how far it is from them.

    python bench/costs.py RESULTS [RESULTS ...]

For each stage: seconds of a job with a tiny model, which a folder of `experiment=smoke` tells; seconds for each second
of the reference machine; and the sums of measured seconds and of those that the table as it is predicts.
Then the peak memory of the job of each stage that came nearest to what `headscope.pipeline.plan.memory` predicts.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headscope.pipeline.plan.costs import ideal, work
from headscope.pipeline.plan.estimate import node_of
from headscope.pipeline.plan.memory import gpu_mb, memory_mb
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.store import provenance

NOTHING = 0.5  # ideal seconds of a job below which all of its time is start-up


def finished(results: Path) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Yield every finished job of a results folder with its provenance."""
    for file in sorted(results.glob("*/*/provenance.json")):
        yield node_of(file.parent), provenance.read(file.parent)


def fit(ideals: np.ndarray, seconds: np.ndarray, batched: bool) -> tuple[float, float]:
    """Return the seconds of a job that has next to nothing to do, and those of all else for each ideal second.

    Of jobs that share a process, the first alone has the seconds of its start: the quickest job has none of them.
    """
    idle = seconds[ideals < NOTHING]
    each = float(idle.min() if batched else idle.mean()) if len(idle) else 0.0
    busy = ideals >= NOTHING
    total = float(ideals[busy].sum())
    return each, max(0.0, float((seconds[busy] - each).sum()) / total) if total else 0.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    jobs: dict[str, list[tuple[Node, float]]] = {}
    needs: dict[str, list[tuple[float, int]]] = {}
    for results in parser.parse_args().results:
        for node, record in finished(results.resolve()):
            jobs.setdefault(node.stage, []).append((node, record["seconds"]))
            pairs = [("peak_memory_mib", memory_mb), ("peak_gpu_memory_mib", gpu_mb)]
            for name, predict in pairs:
                if name in record:
                    needs.setdefault(f"{node.stage} {name}", []).append((record[name], predict(results, node)))
    for stage, rows in jobs.items():
        ideals, seconds = (np.array(values) for values in zip(*((ideal(node), s) for node, s in rows), strict=True))
        each, factor = fit(ideals, seconds, STAGES[stage].batched)
        predicted = sum(work(node) for node, _ in rows)
        print(
            f'    "{stage}": ({each:.3g}, {factor:.3g}),  # {len(rows)} jobs in {seconds.sum():.0f} s,'
            f" {predicted:.0f} s by the table"
        )
    for name, sizes in needs.items():
        peak, predicted = max(sizes, key=lambda pair: pair[0] / max(1, pair[1]))
        print(f"{name:<32} {peak:.0f} of {predicted} predicted, nearest to its limit of {len(sizes)} jobs")


if __name__ == "__main__":
    main()
