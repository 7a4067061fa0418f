"""What figures know of a finished node of the workflow."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Setting(NamedTuple):
    """One benchmark at one length: averaged over and drawn together."""

    benchmark: str
    length: int

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.length:,} tokens"


class Node(Protocol):
    """A finished node: its folder and the slice that made it."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    @property
    def spec(self) -> dict[str, Any]:
        """Its slice of the configuration."""


def setting_of(node: Node) -> Setting:
    """Return the benchmark and length of a node."""
    return Setting(node.spec["benchmark"], node.spec["length"])
