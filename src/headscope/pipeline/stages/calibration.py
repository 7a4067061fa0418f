"""Fit what each target sparsity needs: one threshold for all heads, after each head's map, or a static ranking."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads import registry
from headscope.heads.calibration.maps import MarginMap, energy_map
from headscope.heads.calibration.thresholds import bulk_share, head_means, static_labels, threshold_for
from headscope.heads.decision import GROUP, LOSS, group_margins
from headscope.pipeline.store.calibration_pairs import Pairs, read_pairs
from headscope.pipeline.store.parents import Parents

Array = NDArray[Any]


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write calibration.json: what each target needs, and the sparsity that it reaches on the evaluated prompts.

    Maps and thresholds are fitted on the calibration split. `static_oracle` alone (`calibrated_on: evaluation`) is
    fitted on the evaluated prompts themselves. `left_out` names the tasks that could not be drawn.
    """
    fitted = read_pairs(spec, parents, "evaluation" if spec["calibrated_on"] == "evaluation" else "calibration")
    test = read_pairs(spec, parents, "evaluation")
    margin_map = _map(spec, fitted)
    margins, tested = _calibrated(spec, fitted, margin_map), _calibrated(spec, test, margin_map)
    plain = {"map": margin_map.plain()} if margin_map.layers else {}
    targets, reached = {}, {}
    for target in spec["targets"]:
        if spec["kind"] == "static":
            targets[str(target)] = _ranking(fitted, target)
            local = [~long for long in _labels_of(targets[str(target)], test)]
        else:
            threshold = threshold_for(margins, target)
            targets[str(target)] = {"threshold": threshold, **plain}
            local = [margin >= threshold for margin in tested]
        shares = [labels.mean() for labels in local if labels.size]
        reached[str(target)] = float(np.mean(shares)) if shares else None
    absent = [parent.spec["task"] for parent in parents if parent.left_out]
    result = {"criterion": spec["criterion"], "kind": spec["kind"], "prompts": len(fitted.exact), "left_out": absent}
    text = json.dumps({**result, "targets": targets, "sparsity": reached}, indent=1)
    (out / "calibration.json").write_text(text, encoding="utf-8")


def _map(spec: Mapping[str, Any], pairs: Pairs) -> MarginMap:
    if registry.criterion(spec["kind"]).measures != LOSS:
        return MarginMap({})
    return energy_map(pairs.margin, [-lost for lost in pairs.lost], pairs.layer)


def _calibrated(spec: Mapping[str, Any], pairs: Pairs, margin_map: MarginMap) -> list[Array]:
    """Return margins as the criterion compares them with its threshold, [N, H] a prompt."""
    calibrated = [margin_map.apply_rows(*rows) for rows in zip(pairs.layer, pairs.margin, strict=True)]
    if spec["unit"] == GROUP:
        measures = registry.criterion(spec["kind"]).measures
        calibrated = [group_margins(torch.from_numpy(m), spec["kv_heads"], measures, 1).numpy() for m in calibrated]
    return calibrated


def _labels_of(ranking: Mapping[str, Any], pairs: Pairs) -> list[Array]:
    """A ranking's labels of every pair; True is long."""
    by_layer = dict(zip(ranking["layers"], np.array(ranking["long"], dtype=bool), strict=True))
    return [np.stack([by_layer[layer] for layer in layers.tolist()]) for layers in pairs.layer]


def _ranking(pairs: Pairs, target: float) -> dict[str, Any]:
    threshold = threshold_for(pairs.exact, target)
    indices, long_share = head_means([~(odds >= threshold) for odds in pairs.exact], pairs.layer)
    _, lost = head_means([bulk_share(odds) for odds in pairs.exact], pairs.layer)
    return {"layers": indices, "long": static_labels(long_share, lost, target).astype(int).tolist()}
