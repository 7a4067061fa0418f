"""Thresholds for the target sparsities, one number for all heads, and static rankings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headscope.heads.calibration import energy_weights, head_means, static_labels, threshold_for
from headscope.heads.quality import label_quality, pair_weights
from headscope.pipeline.margin_tables import PromptMargins, read_margins
from headscope.pipeline.node import LOST_OUTPUT
from headscope.pipeline.oracle_tables import PromptMasses, read_estimates, read_masses
from headscope.pipeline.parents import Parents

Array = NDArray[Any]
Spec = dict[str, Any]


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write calibration.json: what each target needs, and the quality of its labels.

    Thresholds are fitted on the calibration split. `static_oracle` alone (`calibrated_on: evaluation`) is fitted on the
    evaluated prompts themselves. Quality is measured on the evaluation split of the same tasks.

    Args:
        spec: criterion, kind, calibrated_on, estimator (a name or null), targets, length, task.
        out: the node's empty folder.
        parents: oracle nodes (margins nodes for a criterion with margins of its own); which tasks they hold follows
            from `calibrated_on`.
    """
    if parents.all("margins"):
        _write(spec, out, *_by_margins(spec, parents))
        return
    fit = _Pairs(parents, "evaluation" if spec["calibrated_on"] == "evaluation" else "calibration", spec["estimator"])
    test = _Pairs(parents, "evaluation", spec["estimator"])
    targets, quality = {}, {}
    for target in spec["targets"]:
        oracle_threshold = threshold_for(fit.exact, target)
        if spec["kind"] == "static":
            found = _ranking(fit, oracle_threshold, target)
            labels = test.labels_of(found)
        else:
            found = {"threshold": threshold_for(fit.predicted, target)}
            labels = [~(odds >= found["threshold"]) for odds in test.predicted]
        targets[str(target)] = found
        quality[str(target)] = _quality(test, labels, oracle_threshold)
    _write(spec, out, len(fit.masses), targets, quality)


def _write(spec: Mapping[str, Any], out: Path, prompts: int, targets: Spec, quality: Spec) -> None:
    result = {**{name: spec[name] for name in ("criterion", "kind")}, "prompts": prompts}
    text = json.dumps({**result, "targets": targets, "quality": quality}, indent=1)
    (out / "calibration.json").write_text(text, encoding="utf-8")


def _by_margins(spec: Mapping[str, Any], parents: Parents) -> tuple[int, Spec, Spec]:
    """Number of prompts, and thresholds and quality for each target, from recorded margins."""
    fit, test = (_recorded(spec, parents, split) for split in ("calibration", "evaluation"))
    weights: dict[str, Any] = {}
    if spec["kind"] in LOST_OUTPUT:
        indices, logs = energy_weights([m.lost for m in fit], [-m.margin for m in fit], [m.layer for m in fit])
        weights = {"layers": indices, "weights": logs.tolist()}
    weighed = [[_weighed(m, weights) for m in margins] for margins in (fit, test)]
    targets, quality = {}, {}
    for target in spec["targets"]:
        threshold = threshold_for(weighed[0], target)
        targets[str(target)] = {"threshold": threshold, **weights}
        local = [margin >= threshold for margin in weighed[1]]
        energy = [np.exp(2 * m.lost.astype(np.float64)) for m in test]
        lost = sum(float((e * called).sum() / e.sum()) for e, called in zip(energy, local, strict=True))
        sparsity = float(np.mean([called.mean() for called in local]))
        quality[str(target)] = {"sparsity": sparsity, "lost_energy": lost / len(test)}
    return len(fit), targets, quality


def _recorded(spec: Mapping[str, Any], parents: Parents, split: str) -> list[PromptMargins]:
    found = (read_margins(parent.folder, spec["criterion"], split) for parent in parents.all("margins"))
    return [margins for node in found for margins in node]


def _weighed(margins: PromptMargins, weights: Mapping[str, Any]) -> Array:
    """The margins as the criterion compares them, [N, H]."""
    margin: Array = margins.margin.astype(np.float64)
    if not weights:
        return margin
    by_layer = dict(zip(weights["layers"], np.array(weights["weights"]), strict=True))
    return np.asarray(margin - np.stack([by_layer[layer] for layer in margins.layer.tolist()]))


class _Pairs:
    """Log-odds of every pair of a split, exact and as the criterion predicts them, [N, H] a prompt."""

    def __init__(self, parents: Parents, split: str, estimator: str | None):
        self.masses: list[PromptMasses] = []
        self.predicted: list[Array] = []
        for parent in parents.all("oracle"):
            masses = list(read_masses(parent.folder, split))
            bulk = {m.prompt: m.bulk for m in masses}
            if estimator is not None:
                bulk = read_estimates(parent.folder, estimator, set(bulk))
            self.masses += masses
            self.predicted += [m.local - bulk[m.prompt] for m in masses]
        self.exact = [m.local - m.bulk for m in self.masses]

    def labels_of(self, ranking: Mapping[str, Any]) -> list[Array]:
        """A ranking's labels of every pair."""
        by_layer = dict(zip(ranking["layers"], np.array(ranking["long"], dtype=bool), strict=True))
        return [np.stack([by_layer[layer] for layer in m.layer.tolist()]) for m in self.masses]


def _ranking(pairs: _Pairs, oracle_threshold: float, target: float) -> dict[str, Any]:
    layers = [m.layer for m in pairs.masses]
    indices, long_share = head_means([~(odds >= oracle_threshold) for odds in pairs.exact], layers)
    _, lost = head_means([_bulk_share(odds) for odds in pairs.exact], layers)
    return {"layers": indices, "long": static_labels(long_share, lost, target).astype(int).tolist()}


def _bulk_share(log_odds: Array) -> Array:
    with np.errstate(over="ignore"):
        share: Array = 1 / (1 + np.exp(log_odds.astype(np.float64)))
    return share


def _quality(pairs: _Pairs, labels: Sequence[Array], oracle_threshold: float) -> dict[str, float | None]:
    long, exact = np.concatenate(labels), np.concatenate(pairs.exact)
    prompts = np.repeat(np.arange(len(labels)), [len(part) for part in labels])
    weights = pair_weights(prompts, long.shape[1])
    found = label_quality(long, ~(exact >= oracle_threshold), 1 - _bulk_share(exact), weights)
    # JSON has no NaN: a share that does not exist (no long pair at all) is null.
    return {name: value if np.isfinite(value) else None for name, value in found.items()}
