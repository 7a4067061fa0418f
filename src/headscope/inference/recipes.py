"""Criteria as conf/ has them: one YAML says what the workflow evaluates and what `headscope.calibrate` fits.

The workflow reads conf/ by Hydra. The library reads the three groups that make a criterion by itself: a YAML, what its
`defaults:` name, and for what a YAML leaves out the defaults that an estimator declares.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from headscope.heads import registry

CONF = Path(__file__).resolve().parents[1] / "conf"
Spec = dict[str, Any]


def servable() -> dict[str, Spec]:
    """Return the criteria of conf/criterion that `headscope.calibrate` can fit and decode with, by name."""
    specs = {file.stem: composed("criterion", file.stem) for file in sorted((CONF / "criterion").glob("*.yaml"))}
    return {name: spec for name, spec in specs.items() if _is_servable(spec)}


def _is_servable(spec: Mapping[str, Any]) -> bool:
    """Return True if margins are shares or losses, estimated from the prompt's own bulk.

    The bulk of a prompt has no other text's moments and no last queries; outliers that heads share leave them different
    numbers of keys.
    """
    estimator, outliers = spec.get("estimator"), spec.get("outliers")
    if estimator is None or registry.criterion(spec["kind"]).measures not in ("share", "loss"):
        return False
    if outliers is not None:
        ragged = registry.estimator(estimator["kind"]).ragged
        if registry.outlier_rule(outliers["rule"]).queries or (outliers.get("shared", 0) > 0 and not ragged):
            return False
    return bool(estimator.get("moments", "prompt") == "prompt")


def composed(group: str, name: str) -> Spec:
    """Read a YAML of conf/ with all that its `defaults:` name; later ones win, its own options come last."""
    own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    defaults = own.pop("defaults", [])
    spec: Spec = {}
    for entry in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
        if entry == "_self_":
            _merge(spec, own)
        else:
            [(target, choice)] = entry.items()  # /estimator@estimator: clusters_small
            other, _, key = target.removeprefix("/").partition("@")
            _merge(spec, {key: composed(other, choice)})
    return registry.completed(spec) if group == "estimator" else spec


def _merge(spec: Spec, more: Mapping[str, Any]) -> None:
    """Write options over those of `spec`, group by group."""
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(spec.get(name), dict):
            _merge(spec[name], value)
        else:
            spec[name] = value
