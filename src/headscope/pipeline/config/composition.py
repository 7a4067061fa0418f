"""One composition by Hydra, and its errors in one line that names the option and what it accepts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config import schema
from headscope.pipeline.config.options import find, refuse_unknown
from headscope.pipeline.config.overrides import CHOSEN_BY_NAME, check_words, option_of


def composed(words: Sequence[str], root: Path) -> dict[str, Any]:
    """Compose `conf/` with overrides that sweep nothing, into the classes of the schema.

    Raises:
        ConfigError: an override names no option, or a value has another type, or is missing.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    check_words(words, root)
    ConfigStore.instance().store("headscope_schema", schema.Config)
    try:
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            typed = hydra_compose("config", overrides=[_forced(word) for word in words])
        _drop_unchosen(typed)
        if missing := sorted(OmegaConf.missing_keys(typed)):
            option = find(missing[0])
            raise ConfigError(f"option {missing[0]} must be given" + (f": {option.accepts}" if option else ""))
        plain = OmegaConf.to_container(typed, resolve=True)
    except YAMLError as error:
        raise ConfigError(f"a file of conf/ is no YAML: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, words) from error
    except (AssertionError, AttributeError) as error:  # OmegaConf has no message for an option of a group that is null
        raise _null_group(words) or error from error
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _drop_unchosen(typed: Any) -> None:
    """Leave out a benchmark that an experiment describes and the command line did not choose: it has no kind."""
    from omegaconf import OmegaConf, open_dict

    with open_dict(typed):
        for name in [name for name, benchmark in typed.benchmark.items() if OmegaConf.is_missing(benchmark, "kind")]:
            del typed.benchmark[name]


def _forced(word: str) -> str:
    """Let a free mapping (a figure's params) take new names without Hydra's `+`; they were checked by name."""
    option = find(option_of(word))
    return f"++{word}" if option and option.kind is dict and word[0] not in "+~" else word


def _explained(error: Exception, words: Sequence[str]) -> ConfigError:
    """Turn Hydra's or OmegaConf's message into one line."""
    cause = error.__cause__ if error.__cause__ is not None else error
    # Hydra keeps only the text of an error inside one choice of a group.
    named = re.search(r"full_key: (\S+)", str(cause))
    path = getattr(cause, "full_key", None) or (named and named[1])
    reason = str(cause).strip().splitlines()[0]
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
    value = next((word.split("=", 1)[1] for word in words if option_of(word) == path and "=" in word), None)
    wrong = f"{value!r} is not " if value is not None else f"{reason}; it is "
    return ConfigError(f"option {path}: {wrong}{option.accepts}")


def _null_group(words: Sequence[str]) -> ConfigError | None:
    """Return the error of an option of a group that is null: a model's RoPE, a criterion's estimator or outliers."""
    for path in sorted(map(option_of, words), key=len, reverse=True):
        if path.startswith("model.rope"):
            remedy = "give it in a YAML of the model, as conf/model/llama3_8b_rope16k.yaml does"
            return ConfigError(f"option {path}: model.rope is null here; {remedy}")
        for head in (path, path.rpartition(".")[0]):
            if (group := head.rpartition(".")[2]) in ("estimator", "outliers"):
                remedy = f"choose one of conf/{group}, +{group}@{head}=..."
                return ConfigError(f"option {path}: {head} is null here; {remedy}")
    return None
