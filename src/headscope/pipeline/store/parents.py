"""The finished folders that a stage reads, looked up by stage and slice."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from headscope.errors import AssetError, ConfigError, LengthError
from headscope.pipeline.store import left_out
from headscope.pipeline.store.left_out import LeftOut


@dataclass(frozen=True)
class Parent:
    """A finished node's folder, `results/<stage>/<name>--<key>`."""

    folder: Path

    @property
    def stage(self) -> str:
        """Return the stage that made the folder."""
        return self.folder.parent.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Read the slice that made the folder from its `spec.yaml`.

        Raises:
            AssetError: there is no `spec.yaml`, so the folder is not finished, or it cannot be read.
        """
        path = self.folder / "spec.yaml"
        if not path.is_file():
            raise AssetError(f"{self.folder} is not a finished {self.stage} folder: it has no spec.yaml; run it again")
        try:
            spec = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise AssetError(f"{path} cannot be read ({type(error).__name__}); make the folder anew") from error
        if not isinstance(spec, dict):
            raise AssetError(f"{path} holds no options; make the folder anew")
        return spec

    @cached_property
    def left_out(self) -> LeftOut | None:
        """Why the folder has no rows; None if its task was drawn."""
        return left_out.read(self.folder)


class Parents(list[Parent]):
    """A node's parents in the order of the plan."""

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__(Parent(Path(folder)) for folder in folders)

    def all(self, stage: str, **filters: Any) -> list[Parent]:
        """Return the parents of `stage` whose slice has all values of `filters`."""
        return [
            parent
            for parent in self
            if parent.stage == stage and all(parent.spec.get(name) == value for name, value in filters.items())
        ]

    def one(self, stage: str, **filters: Any) -> Parent:
        """Return the only parent that `all` returns.

        Raises:
            ConfigError: there is none, or there are several.
        """
        matches = self.all(stage, **filters)
        if len(matches) != 1:
            wanted = " ".join([stage, *(f"{name}={value!r}" for name, value in filters.items())])
            folders = ", ".join(str(parent.folder) for parent in self) or "none"
            raise ConfigError(f"expected one parent {wanted}, found {len(matches)}; parents given: {folders}")
        return matches[0]

    def drawn(self, stage: str, reader: str) -> list[Parent]:
        """Return the parents of `stage` but those whose task could not be drawn.

        Args:
            stage: the stage.
            reader: who reads them, for the message.

        Raises:
            LengthError: there are such parents, and none could be drawn.
        """
        parents = self.all(stage)
        drawn = [parent for parent in parents if parent.left_out is None]
        if parents and not drawn:
            first, *others = [parent.left_out for parent in parents if parent.left_out]
            too = f"; left out too: {', '.join(other.task for other in others)}" if others else ""
            raise LengthError(f"{reader}: no task to read is left: {first.reason}{too}")
        return drawn
