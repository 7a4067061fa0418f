"""Hydra: override strings in, checked configurations out, one for each point of a sweep.

A composition takes 65 ms and every cluster job reads the plan again, so compositions are kept on disk. That is sound
because the tracked configuration reads neither the environment nor the clock (a test says so).
"""

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config import schema
from headscope.pipeline.config.checks import check
from headscope.pipeline.config.options import find, nearest, refuse_unknown
from headscope.pipeline.store.files import atomic_file, digest

CHOSEN_BY_NAME = ("benchmark", "criterion", "figure")  # groups of which an experiment has several
CACHE = Path("results/.cache/compose")  # under the project, wherever the results go


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


def compose(overrides: Sequence[str], root: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each point of a sweep as its readable name and its checked configuration.

    An experiment's own `points` multiply the sweep; an override of the same option wins over them.

    Raises:
        ConfigError: an override or the configuration is wrong.
    """
    found = []
    for words, sweep in expand(overrides):
        config = _cached(words, root)
        given = {_key(word) for word in words}
        points = [tuple(w for w in shlex.split(text) if _key(w) not in given) for text in config["points"] or [""]]
        for mine in dict.fromkeys(points):  # an override may leave several points the same
            for more, _ in expand(mine):
                named = [_readable(word) for word in [*more, *sweep] if _key(word) != "experiment"]
                found.append((",".join(named), _cached([*more, *words], root) if more else config))
    return found


def expand(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Expand sweeps (`a=1,2`, `choice()`, `range()`) with Hydra's own grammar into points: all words, swept words.

    Raises:
        ConfigError: Hydra cannot read an override.
    """
    axes: list[list[tuple[str, bool]]] = []
    for override in _parse(overrides):
        if override.is_sweep_override():
            axes.append([(f"{override.get_key_element()}={value}", True) for value in override.sweep_string_iterator()])
        else:
            axes.append([(override.input_line, False)])
    points = list(itertools.product(*axes))
    return [([word for word, _ in point], [word for word, swept in point if swept]) for point in points]


def groups(root: Path) -> dict[str, list[str]]:
    """Return the configuration groups and the names of their choices."""
    conf = root / "conf"
    found = {}
    for folder in sorted(path for path in conf.iterdir() if path.is_dir()):
        found[folder.name] = sorted(str(file.relative_to(folder))[: -len(".yaml")] for file in folder.rglob("*.yaml"))
    return found


def _parse(overrides: Sequence[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parsed = []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"cannot read the option {text!r}: {reason}; write name=value, see --help") from error
    return parsed


def _key(word: str) -> str:
    return word.split("=", 1)[0].lstrip("+~")


def _readable(word: str) -> str:
    return "".join(char if char.isalnum() or char in "_.=-" else "_" for char in word).replace("=_", "=").rstrip("_")


def _cached(words: Sequence[str], root: Path) -> dict[str, Any]:
    file = root / CACHE / f"{digest([_fingerprint(root), list(words)], 20)}.json"
    if file.is_file():
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return config
    config = _compose(words, root)
    try:
        with atomic_file(file) as path:
            path.write_text(json.dumps(config), encoding="utf-8")
    except Exception:  # a cache that cannot be written costs time, nothing else
        pass
    return config


@cache
def _fingerprint(root: Path) -> str:
    """Digest of all that a composition depends on: the YAMLs, the schema and its checks, Hydra."""
    here = Path(schema.__file__).parent
    files = [
        *sorted((root / "conf").rglob("*.yaml")),
        *(here / f"{name}.py" for name in ("schema", "options", "checks")),
    ]
    state = hashlib.sha256(version("hydra-core").encode())
    for file in files:
        state.update(file.name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


def _compose(words: Sequence[str], root: Path) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    _check_words(words, root)
    ConfigStore.instance().store("headscope_schema", schema.Config)
    try:
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            composed = hydra_compose("config", overrides=[_forced(word) for word in words])
        _drop_unchosen(composed)
        if missing := sorted(OmegaConf.missing_keys(composed)):
            option = find(missing[0])
            raise ConfigError(f"option {missing[0]} must be given" + (f": {option.accepts}" if option else ""))
        config = OmegaConf.to_container(composed, resolve=True)
    except YAMLError as error:
        raise ConfigError(f"a file of conf/ is no YAML: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, words) from error
    except (AssertionError, AttributeError) as error:  # OmegaConf has no message for an option of a group that is null
        raise _null_group(words) or error from error
    assert isinstance(config, dict)
    plain = {str(name): value for name, value in config.items()}
    check(plain)
    return plain


def _drop_unchosen(composed: Any) -> None:
    """Leave out what an experiment says of a benchmark that the command line did not choose: it has no kind."""
    from omegaconf import OmegaConf, open_dict

    with open_dict(composed):
        for name in [name for name, found in composed.benchmark.items() if OmegaConf.is_missing(found, "kind")]:
            del composed.benchmark[name]


def _forced(word: str) -> str:
    """Let a free mapping (a figure's params) take new names without Hydra's `+`; they were checked by name."""
    option = find(_key(word))
    return f"++{word}" if option and option.kind is dict and word[0] not in "+~" else word


def _check_words(words: Sequence[str], root: Path) -> None:
    """Refuse options and choices that do not exist before Hydra does, with the nearest one that does."""
    known = groups(root)
    for override in _parse(words):
        group = override.key_or_group
        if group not in known:
            refuse_unknown(group, {name: known[name] for name in CHOSEN_BY_NAME})
        elif not override.is_delete():
            for name in _names(override.value()):
                if name not in known[group]:
                    near, every = nearest(name, known[group]), ", ".join(known[group])
                    raise ConfigError(f"unknown {group} {name!r}; did you mean {near!r}? (there are: {every})")


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return ()
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _explain(error: Exception, words: Sequence[str]) -> ConfigError:
    """Turn Hydra's or OmegaConf's message into one line that names the option and what it accepts."""
    cause = error.__cause__ if error.__cause__ is not None else error
    # Hydra keeps the text alone of what went wrong inside one choice of a group.
    named = re.search(r"full_key: (\S+)", str(cause))
    path = getattr(cause, "full_key", None) or (named and named[1])
    reason = _first_line(cause)
    if not path:
        return ConfigError(reason)
    head, _, name = path.partition(".")
    if head in CHOSEN_BY_NAME and name and "." not in name:
        return ConfigError(f"option {path}: this experiment has no {head} {name!r}; choose it: {head}=[{name},...]")
    option = find(path)
    if option is None:
        try:
            refuse_unknown(path, {})
        except ConfigError as unknown:
            return ConfigError(f"{unknown} ({reason})")
        return ConfigError(f"option {path}: {reason}")
    value = next((word.split("=", 1)[1] for word in words if _key(word) == path and "=" in word), None)
    given = f"{value!r} is not " if value is not None else f"{reason}; it is "
    return ConfigError(f"option {path}: {given}{option.accepts}")


def _null_group(words: Sequence[str]) -> ConfigError | None:
    groups = {"estimator": "estimator", "outliers": "outliers"}
    for path in sorted(map(_key, words), key=len, reverse=True):
        for head in (path, path.rpartition(".")[0]):
            if group := groups.get(head.rpartition(".")[2]):
                remedy = f"choose one of conf/{group}, +{group}@{head}=..."
                return ConfigError(f"option {path}: {head} is null here; {remedy}")
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
