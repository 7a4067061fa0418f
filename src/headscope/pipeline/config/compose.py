"""Hydra: override strings in, checked configurations out, one for each point of a sweep.

A composition takes 65 ms and every cluster job reads the plan again, so compositions are kept on disk. That is sound
because what reads the environment or the clock is refused. A composition from the cache is checked like a new one: a
change of the checks holds at once. A file of the cache that is damaged is composed again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headscope.errors import AssetError, ConfigError
from headscope.heads import registry
from headscope.pipeline.config import composition, options, override_checks, overrides, schema, yaml_files
from headscope.pipeline.config.checks import check
from headscope.pipeline.config.composition import composed
from headscope.pipeline.config.kind_options import declared
from headscope.pipeline.config.overrides import expand, option_of, readable, split
from headscope.pipeline.config.yaml_files import texts
from headscope.pipeline.store.files import atomic_file, digest
from headscope.pipeline.store.sealed import read_sealed, write_sealed

CACHE = Path("results/.cache/compose")  # under the project, wherever the results go
COMPOSED_BY = tuple(
    Path(str(module.__file__)) for module in (composition, options, override_checks, overrides, schema, yaml_files)
)
"""Code that a composition depends on."""
OF_KINDS: Mapping[str, registry.Family] = {"estimator": "estimators", "selector": "selectors"}
"""Options of a criterion whose own options their kind declares, and the kinds' family."""


def find_root(start: Path | None = None) -> Path:
    """Return the project folder: the nearest one from `start` (the current folder) up that has `conf/` and a Snakefile.

    Raises:
        ConfigError: there is none; the workflow is used from a clone.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "conf" / "config.yaml").is_file() and (folder / "Snakefile").is_file():
            return folder
    raise ConfigError(f"no conf/config.yaml beside a Snakefile from {here} up; run inside a clone of headscope")


def compose(words: Sequence[str], root: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each point of a sweep as its readable name and its checked configuration.

    An experiment's own `points` multiply the sweep; an override of the same option wins over them.

    Args:
        words: overrides; they may sweep.
        root: the project folder.

    Raises:
        ConfigError: an override or the configuration is wrong.
    """
    points = []
    for point, sweep in expand(words):
        config = _checked(point, root)
        overridden = {option_of(word) for word in point}
        own = [split(text) for text in config["points"] or [""]]
        if any(option_of(word) == "points" for more in own for word in more):
            raise ConfigError("option points: a point has no points of its own; write its overrides")
        kept = [tuple(word for word in more if option_of(word) not in overridden) for more in own]
        for mine in dict.fromkeys(kept):  # an override may leave several points the same
            for more, _ in expand(mine):
                named = [readable(word) for word in [*more, *sweep] if option_of(word) != "experiment"]
                points.append((",".join(named), _checked([*more, *point], root) if more else config))
    return points


def _checked(words: Sequence[str], root: Path) -> dict[str, Any]:
    """Compose, give every estimator and selector the defaults of its kind, and check the result."""
    config = _cached(words, root)
    for criterion in config["criterion"].values():
        for name, family in OF_KINDS.items():
            if (criterion[name] or {}).get("kind") in registry.kinds(family):  # the checks refuse another kind
                criterion[name] = registry.completed(criterion[name], family)
    check(config)
    return config


def _cached(words: Sequence[str], root: Path) -> dict[str, Any]:
    key = digest([fingerprint(root), list(words)], 20)
    file = root / CACHE / f"{key}.json"
    config = _read(file, key)
    if config is None:
        config = composed(words, root)
        try:
            with atomic_file(file) as path:
                write_sealed(path, {"key": key, "config": config})
        except Exception:  # a cache that cannot be written costs time, nothing else
            pass
    return config


def _read(file: Path, key: str) -> dict[str, Any] | None:
    """Return a composition of the cache; None if there is none, or it is not as it was written."""
    try:
        entry = read_sealed(file)
        config: dict[str, Any] = entry["config"]
        return config if entry["key"] == key else None
    except (AssetError, KeyError):
        return None


@cache
def fingerprint(root: Path) -> str:
    """Digest all that a composition depends on: the YAMLs, the schema with the options of all kinds, and Hydra."""
    code = [file.read_text(encoding="utf-8") for file in COMPOSED_BY]
    versions = [version(name) for name in ("hydra-core", "omegaconf")]
    return hashlib.sha256(repr([texts(root), code, [*map(declared, OF_KINDS.values())], versions]).encode()).hexdigest()
