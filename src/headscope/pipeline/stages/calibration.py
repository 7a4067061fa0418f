"""Fit what each target needs: one threshold for all heads, after each head's map, or a static ranking."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads import registry
from headscope.heads.calibration.kv_bytes import Costs
from headscope.heads.calibration.maps import MarginMap, energy_map
from headscope.heads.calibration.rules import Rule, ShareOfBytes, ShareOfPairs
from headscope.heads.criteria import mean_decision_bytes
from headscope.heads.decision import GROUP, LOSS, group_margins
from headscope.heads.window import Window
from headscope.pipeline.store.calibration_pairs import Pairs, read_pairs
from headscope.pipeline.store.parents import Parents

Array = NDArray[Any]


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write calibration.json: what each target needs, and what it reaches on the evaluated prompts.

    Maps and thresholds are fitted on the calibration split. `static_oracle` alone (`calibrated_on: evaluation`) is
    fitted on the evaluated prompts themselves. `left_out` names the tasks that could not be drawn.
    """
    fitted = read_pairs(spec, parents, "evaluation" if spec["calibrated_on"] == "evaluation" else "calibration")
    test, rule = read_pairs(spec, parents, "evaluation"), _rule(spec)
    margin_map = _map(spec, fitted)
    margins, tested = _calibrated(spec, fitted, margin_map), _calibrated(spec, test, margin_map)
    plain = {"map": margin_map.plain()} if margin_map.layers else {}
    targets, reached = {}, {}
    for target in spec["targets"]:
        if spec["kind"] == "static":
            layers, labels = rule.ranking(fitted.exact, fitted.layer, fitted.query, target)
            targets[str(target)] = {"layers": layers, "long": labels.astype(int).tolist()}
            long = _labels_of(targets[str(target)], test)
        else:
            threshold = rule.threshold(margins, fitted.query, target)
            targets[str(target)] = {"threshold": threshold, **plain}
            long = [~(margin >= threshold) for margin in tested]
        reached[str(target)] = rule.reached(long, test.query)
    absent = [parent.spec["task"] for parent in parents if parent.left_out]
    result = {"criterion": spec["criterion"], "kind": spec["kind"], "prompts": len(fitted.exact), "left_out": absent}
    text = json.dumps({**result, "targets": targets, rule.name: reached}, indent=1)
    (out / "calibration.json").write_text(text, encoding="utf-8")


def _rule(spec: Mapping[str, Any]) -> Rule:
    """Return what targets are shares of, by what a query of the criterion reads."""
    if "budget" not in spec:
        return ShareOfPairs()
    budget = spec["budget"]
    decision = mean_decision_bytes({**budget, "kind": spec["kind"]}, budget["head_dim"])
    return ShareOfBytes(Costs(Window(**budget["window"]), budget["kv_heads"], budget["head_dim"], decision))


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
