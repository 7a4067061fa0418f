"""The files of conf/: their text, and which of them Hydra cannot read."""

import json
import re
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.options import shown
from headscope.pipeline.config.overrides import refuse_resolver

PACKAGE = re.compile(r"#\s*@package\s+[\w.]+\s*")


def texts(root: Path) -> dict[str, str]:
    """Return the text of every file of conf/ by its path below the project folder.

    Raises:
        ConfigError: a file cannot be read, is not UTF-8, or reads the environment or the clock.
    """
    contents = {}
    for file in sorted((root / "conf").rglob("*.yaml")):
        name = str(file.relative_to(root))
        try:
            contents[name] = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{shown(name)[1:-1]} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(f"{name} is not UTF-8: byte {error.object[error.start]:#x} in line {line}") from error
        refuse_resolver(name, contents[name])
    return contents


def refuse_malformed(root: Path) -> None:
    """Refuse the first file of conf/ that is no YAML or has no form that Hydra reads; called when Hydra failed.

    Raises:
        ConfigError: naming the file and what is wrong.
    """
    import yaml

    for name, text in texts(root).items():
        try:
            fault = _fault(text, yaml.load(text, Loader=yaml.CSafeLoader))
        except (yaml.YAMLError, ValueError) as error:  # a number of thousands of digits
            fault = f"is no YAML: {' '.join(str(error).split())}"
        except RecursionError:
            fault = "is nested too deeply"
        if fault:
            raise ConfigError(f"{name} {fault}")


def _fault(text: str, content: Any) -> str | None:
    """Return what is wrong with a file, or None."""
    header = text.lstrip().partition("\n")[0]
    if re.match(r"#\s*@", header) and not PACKAGE.fullmatch(header):
        return f"has the header {shown(header)}; write # @package and one name"
    if not isinstance(content, dict | None):
        return f"holds {shown(content)}; it must be a mapping of options"
    try:
        json.dumps(content, default=str)
    except ValueError:
        return "holds an anchor inside itself"
    items = (content or {}).get("defaults", [])
    if not isinstance(items, list) or not all(map(_is_default, items)):
        return f"has defaults: {shown(items)}; it must be a list of names and of pairs 'group: name'"
    return None


def _is_default(item: Any) -> bool:
    if isinstance(item, dict):
        names = list(item.values())
        known = [isinstance(name, str | None) or _are_words(name) for name in names]
        return len(names) == 1 and _are_words(list(item)) and all(known)
    return isinstance(item, str)


def _are_words(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
