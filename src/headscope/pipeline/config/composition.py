"""One composition by Hydra, and its errors in one line that names the option and what it accepts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

from headscope.errors import ConfigError
from headscope.pipeline.config import schema
from headscope.pipeline.config.options import find, leaves, refuse_unknown, shown
from headscope.pipeline.config.override_checks import CHOSEN_BY_NAME, check_words
from headscope.pipeline.config.overrides import option_of
from headscope.pipeline.config.yaml_files import refuse_malformed


def composed(words: Sequence[str], root: Path) -> dict[str, Any]:
    """Compose `conf/` with overrides that sweep nothing, into the classes of the schema.

    Raises:
        ConfigError: an override names no option, or a value has another type, or is missing.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    check_words(words, root)
    ConfigStore.instance().store("headscope_schema", schema.Config)
    try:
        with catch_warnings(), initialize_config_dir(str((root / "conf").absolute()), version_base="1.3"):
            filterwarnings("error", message=".*_self_")  # without it Hydra's order of files changes
            typed = hydra_compose("config", overrides=[_forced(word) for word in words])
        _drop_unchosen(typed)
        if missing := sorted(OmegaConf.missing_keys(typed)):
            option = find(missing[0])
            raise ConfigError(f"option {missing[0]} must be given" + (f": {option.accepts}" if option else ""))
        _refuse_untyped(OmegaConf.to_container(typed))
        plain = OmegaConf.to_container(typed, resolve=True)
    except ConfigError:
        raise
    except Exception as error:  # Hydra and OmegaConf have errors of many kinds, some without a message
        refuse_malformed(root)
        null = _null_group(words) if isinstance(error, AssertionError | AttributeError) else None
        raise null or _explained(error, words) from error
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _drop_unchosen(typed: Any) -> None:
    """Leave out a benchmark that an experiment describes and the command line did not choose: it has no kind."""
    from omegaconf import OmegaConf, open_dict

    with open_dict(typed):
        for name in [name for name, benchmark in typed.benchmark.items() if OmegaConf.is_missing(benchmark, "kind")]:
            del typed.benchmark[name]


def _refuse_untyped(raw: Any) -> None:
    """Refuse an interpolation in the place of a group or a list, whose type OmegaConf does not check."""
    for path, value in leaves(raw):
        option = find(path)
        if isinstance(value, str) and "${" in value and (option is None or option.many or option.kind is dict):
            raise ConfigError(f"option {path}: {shown(value)} stands for more than one value; write them out")


def _forced(word: str) -> str:
    """Let a free mapping (a figure's params) take new names without Hydra's `+`; they were checked by name."""
    option = find(option_of(word))
    return f"++{word}" if option and option.kind is dict and word[0] not in "+~" else word


def _explained(error: Exception, words: Sequence[str]) -> ConfigError:
    """Turn Hydra's or OmegaConf's message into one line."""
    from yaml import YAMLError

    cause = error.__cause__ if error.__cause__ is not None else error
    # Hydra keeps only the text of an error inside one choice of a group.
    named = re.search(r"full_key: (\S+)", str(cause))
    path = re.sub(r"\[\d+\]", "", getattr(cause, "full_key", None) or (named[1] if named else ""))
    if isinstance(cause, YAMLError):
        return ConfigError(f"a file of conf/ is no YAML: {' '.join(str(cause).split())}")
    reason = shown(next(iter(str(cause).strip().splitlines()), type(cause).__name__))[1:-1]
    if not path:
        return ConfigError(f"cannot compose {shown(' '.join(words))}: {reason}")
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
    value = next((word.split("=", 1)[1] for word in words if option_of(word) == path and "=" in word), None)
    wrong = f"{shown(value)} is not " if value is not None else f"{reason}; it is "
    return ConfigError(f"option {path}: {wrong}{option.accepts}")


def _null_group(words: Sequence[str]) -> ConfigError | None:
    """Return the error of an option of a group that is null: a model's RoPE, or one of a criterion's groups."""
    for path in sorted(map(option_of, words), key=len, reverse=True):
        if path.startswith("model.rope"):
            remedy = "give it in a YAML of the model, as conf/model/llama3_8b_rope16k.yaml does"
            return ConfigError(f"option {path}: model.rope is null here; {remedy}")
        for head in (path, path.rpartition(".")[0]):
            if (group := head.rpartition(".")[2]) in ("estimator", "outliers", "selector"):
                remedy = f"choose one of conf/{group}, +{group}@{head}=..."
                return ConfigError(f"option {path}: {head} is null here; {remedy}")
    return None
