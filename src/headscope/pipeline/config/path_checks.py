"""Check the options that become files and folders: names of results, their folder, the user's own files."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from headscope.errors import ConfigError
from headscope.pipeline.config.options import shown
from headscope.pipeline.config.schema import Config

NAME = re.compile(r"\w[\w.]*(-[\w.]+)*", re.ASCII)  # no two hyphens: they part a folder's name from its key
LONGEST = 60  # a folder's name has two names, numbers and a key, in 255 bytes
FOLDER = re.compile(r"/|[\w.,=@+%()][\w.,=@+%() -]*(?<! )")  # what Snakemake, its rules and a shell carry
PART = 255  # bytes of a file's name


def check_paths(config: Config) -> None:
    """Refuse names and paths that files cannot have, or that lead elsewhere.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    for option, name in _names(config):
        words = name.split("/") if option == "name" else [name]
        if len(name) > LONGEST or not all(map(NAME.fullmatch, words)):
            raise ConfigError(
                f"option {option}: {shown(name)} must be letters, digits, '_', '.' and single '-', at most {LONGEST},"
                " with neither '.' nor '-' in front"
            )
    for option, path in _paths(config):
        parts = PurePosixPath(path).parts
        if not parts or max(len(part.encode()) for part in parts) > PART:
            raise ConfigError(f"option {option}: {shown(path)} is no path, whose names have 1 to {PART} bytes")
        try:
            Path(path).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"option {option}: {shown(path)} is in the home of a user that there is not") from error
    for part in PurePosixPath(config.results).parts:
        if part == ".." or not FOLDER.fullmatch(part):
            raise ConfigError(
                f"option results: {shown(config.results)} holds {shown(part)}; a folder's name may have letters,"
                " digits, spaces and . _ - , = @ + % ( ) but is not .., has no - in front and no space at its ends"
            )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the options whose words are in the names of results."""
    yield "name", config.name
    yield "model.name", config.model.name
    yield from (("criterion", name) for name in config.criterion)
    yield from (("figure", name) for name in config.figure)
    yield from (("benchmark", name) for name in config.benchmark)
    yield from (("assets.files", name) for name in config.assets.files)
    for name, criterion in config.criterion.items():
        if criterion.estimator is not None:
            yield f"criterion.{name}.estimator.name", criterion.estimator.name


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the options that are a path on this machine."""
    paths = {"results": config.results, "assets.mirror": config.assets.mirror}
    paths["model.source.path"] = config.model.source.path
    paths |= {f"benchmark.{name}.source": benchmark.source for name, benchmark in config.benchmark.items()}
    yield from ((option, path) for option, path in paths.items() if path is not None)
    for name, file in config.assets.files.items():
        for pattern in file.local:
            option = f"assets.files.{name}.local"
            if pattern.startswith("/") or re.search(r"[^/]\*\*|\*\*[^/]", pattern):
                raise ConfigError(f"option {option}: {shown(pattern)} must be a path or a pattern below assets.mirror")
            yield option, pattern
