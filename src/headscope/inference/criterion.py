"""A criterion calibrated for one model, ready to decode with: what `calibrate` finds and a file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.heads.boundary_state import FROZEN
from headscope.heads.calibration.maps import MarginMap
from headscope.heads.criteria import Criterion, build
from headscope.heads.decision import HEAD
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule
from headscope.heads.window import Window
from headscope.lab.probes import ModelProbes

LOST_OUTPUT = "lost_output"
QUESTION, PROMPT = SCOPES = ("question", "prompt")
"""Which queries decide, as the workflow names them: those behind the prompt, which is read densely, or all."""


@dataclass(frozen=True)
class Recipe:
    """What decides, before any calibration; the YAML of conf/criterion with the same name says the same.

    Attributes:
        kind: a module of headscope.heads.criteria: `lost_output` or `qada`.
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

    @property
    def measures(self) -> str | None:
        """What the criterion's margins measure (`headscope.heads.decision`)."""
        return self.criterion([{}]).measures

    def criterion(self, targets: Sequence[Mapping[str, Any]]) -> Criterion:
        """Make the criterion with one row for each of what calibration found."""
        spec = {"kind": self.kind, "unit": self.unit, "summaries": self.summaries}
        return build(spec, targets, build_estimator(self.estimator, {}))


CLUSTERS = {"name": "clusters_small", "kind": "clusters", "clusters": 16, "covariance": "diagonal", "bits": 8}
GAUSSIAN = {"name": "gaussian_prompt", "kind": "gaussian", "covariance": "full", "moments": "prompt"}
DIAGONAL = {**GAUSSIAN, "name": "gaussian_diagonal", "covariance": "diagonal"}
PROBED = "probe_attention"
RECIPES = {
    "lost_output": Recipe(LOST_OUTPUT, CLUSTERS, OutlierRule(PROBED, 340, 4, 0.5)),
    "lost_output_even": Recipe(LOST_OUTPUT, CLUSTERS, OutlierRule(PROBED, 340, 4)),
    "lost_output_gaussian": Recipe(LOST_OUTPUT, DIAGONAL, OutlierRule(PROBED, 104, 16)),
    "qada": Recipe("qada", GAUSSIAN),
}


def refuse_unserved(name: str, recipe: Recipe, chunk: int | None) -> None:
    """Refuse to decide in the prompt, which chunks mean, where the prefill kernel cannot.

    Raises:
        ConfigError: it serves another recipe, or a chunk holds no token.
    """
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk}: a chunk of the prompt holds 1 token at least")
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
        recipe: kind, estimator and outliers.
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

    @property
    def scope(self) -> str:
        """Which queries decide, one of SCOPES."""
        return QUESTION if self.chunk is None else PROMPT

    def threshold(self, sparsity: float | None = None) -> float:
        """The threshold for a target that was calibrated; None: the only or first one.

        Raises:
            ConfigError: the target was not calibrated.
        """
        if sparsity is None:
            return next(iter(self.thresholds.values()))
        if sparsity not in self.thresholds:
            known = ", ".join(map(str, self.thresholds))
            raise ConfigError(f"sparsity={sparsity} was not calibrated, only {known}; calibrate with it")
        return self.thresholds[sparsity]

    def built(self, sparsity: float | None = None) -> Criterion:
        """Make the criterion of one row that decides at a target; its window holds `recipe.outliers` too."""
        return self.recipe.criterion([self.target(sparsity)])

    def target(self, sparsity: float | None = None) -> dict[str, Any]:
        """Return what calibration found for a target, as `headscope.heads.criteria.build` takes it."""
        fitted = {"map": self.map.plain()} if self.map.layers else {}
        return {"threshold": self.threshold(sparsity), **fitted}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all: float32 probes are most of it (4 L H P D bytes).

        Raises:
            AssetError: it cannot be written.
        """
        from headscope.inference.criterion_file import save

        save(self, Path(path))
