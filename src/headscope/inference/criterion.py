"""A criterion calibrated for one model, ready to decode with: what `calibrate` finds and a file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.heads.boundary_state import FROZEN
from headscope.heads.calibration.maps import MarginMap
from headscope.heads.criteria import Criterion, build
from headscope.heads.decision import HEAD
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule
from headscope.heads.window import Window
from headscope.inference.arguments import file, share
from headscope.inference.criterion_file import save
from headscope.inference.recipes import servable
from headscope.lab.probes import ModelProbes

LOST_OUTPUT = "lost_output"
QUESTION, PROMPT = SCOPES = ("question", "prompt")
"""Which queries decide, as the workflow names them: those behind the prompt, which is read densely, or all."""


@dataclass(frozen=True)
class Recipe:
    """What decides, before any calibration; RECIPES are those of conf/criterion that can be calibrated.

    Attributes:
        kind: of criterion.
        estimator: of the bulk, as `headscope.heads.estimators.build` takes it.
        outliers: keys that belong to the window too.
        unit: what is decided, a query "head" or a "group" of those that share a KV head.
        summaries: "frozen" or "streaming", what the estimator's summaries do behind the boundary.
    """

    kind: str
    estimator: Mapping[str, Any]
    outliers: OutlierRule = NO_OUTLIERS
    unit: str = HEAD
    summaries: str = FROZEN

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Recipe":
        """Make the recipe of a criterion as conf/ has it."""
        outliers = OutlierRule(**(spec.get("outliers") or {}))
        options = {name: spec[name] for name in ("unit", "summaries") if name in spec}
        return cls(spec["kind"], spec["estimator"], outliers, **options)

    @property
    def measures(self) -> str | None:
        """What the criterion's margins measure (`headscope.heads.decision`)."""
        return registry.criterion(self.kind).measures

    def criterion(self, targets: Sequence[Mapping[str, Any]]) -> Criterion:
        """Make the criterion with one row for each of what calibration found."""
        spec = {"kind": self.kind, "unit": self.unit, "summaries": self.summaries}
        return build(spec, targets, build_estimator(self.estimator, {}))


RECIPES = {name: Recipe.of(spec) for name, spec in servable().items()}


def refuse_unserved(name: str, recipe: Recipe, chunk: int | None) -> None:
    """Refuse to decide in the prompt, which chunks mean, where the prefill kernel cannot.

    Raises:
        ConfigError: it serves another recipe.
    """
    if chunk is not None and recipe != RECIPES["qada"]:
        raise ConfigError(
            f"scope='prompt' decides by a full Gaussian without outliers, which {name} is not; choose"
            " criterion='qada', or scope='question'"
        )


@dataclass(frozen=True)
class AdaptiveCriterion:
    """Decides for each query which heads read the long context; made by `headscope.calibrate` or `headscope.load`.

    Attributes:
        name: of the recipe.
        recipe: what decides, before calibration.
        window: the first and last keys, which every head reads.
        thresholds: of the calibrated margin, by the sparsity that it gave on the calibration prompts.
        map: calibrates each head's margin; a straight line for each head.
        probes: queries that outliers and clusters are found by, and the heads' weights; None: the recipe needs none.
        prompt_tokens: lengths of the calibration prompts; a threshold holds at about the length it was fitted at.
        model: identity of the model (`headscope.models.identity`).
        chunk: with `scope=prompt`, tokens of a chunk of the prompt (`headscope.lab.scope`); None: `scope=question`.
    """

    name: str
    recipe: Recipe
    window: Window
    thresholds: Mapping[float, float]
    map: MarginMap
    probes: ModelProbes | None
    prompt_tokens: tuple[int, ...]
    model: Mapping[str, Any]
    chunk: int | None = None

    def threshold(self, sparsity: float | str | None = None) -> float:
        """The threshold for a target that was calibrated; None: the only or first one.

        Raises:
            ConfigError: the target was not calibrated.
        """
        if sparsity is None:
            return next(iter(self.thresholds.values()))
        target = share("sparsity", sparsity)
        if target not in self.thresholds:
            known = ", ".join(map(str, self.thresholds))
            raise ConfigError(f"sparsity={sparsity} was not calibrated, only {known}; calibrate with it")
        return self.thresholds[target]

    def built(self, sparsity: float | str | None = None) -> Criterion:
        """Make the criterion of one row that decides at a target; its window holds `recipe.outliers` too."""
        return self.recipe.criterion([self.target(sparsity)])

    def target(self, sparsity: float | str | None = None) -> dict[str, Any]:
        """Return what calibration found for a target, as `headscope.heads.criteria.build` takes it."""
        fitted = {"map": self.map.plain()} if self.map.layers else {}
        return {"threshold": self.threshold(sparsity), **fitted}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all: float32 probes are most of it (4 L H P D bytes).

        Raises:
            ConfigError: the path is none.
            AssetError: it cannot be written.
        """
        save(self, file("path", path))
