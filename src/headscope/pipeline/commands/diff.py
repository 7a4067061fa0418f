"""`headscope diff A B`: how the jobs, environments and results of two experiments or two results differ.

A and B are override strings (`"experiment=smoke window.recent=64"`) or folders of results.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.overrides import split
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.store import provenance
from headscope.pipeline.store.parents import Parent


def main(arguments: Sequence[str]) -> int:
    """Print the differences; exit code 1 if there are any."""
    if len(arguments) != 2:
        raise ConfigError("diff compares two: headscope diff 'experiment=smoke' 'experiment=smoke window.recent=64'")
    there = [Path(word).is_dir() for word in arguments]
    if any(there) and not all(there):
        raise ConfigError(
            f"{arguments[there.index(False)]} is no folder; diff compares two folders, or two experiments"
        )
    if all(there):
        lines = list(folders(*map(Path, arguments)))
    else:
        lines = list(plans(*(planning.build(split(word)) for word in arguments)))
    print("\n".join(lines) if lines else "no difference")
    return 1 if lines else 0


def plans(first: Plan, second: Plan) -> Iterator[str]:
    """Describe how two plans differ: each job of both by its place in the experiment."""
    left, right = _places(first), _places(second)
    for place in sorted(left.keys() | right.keys()):
        a, b = left.get(place), right.get(place)
        if a is None or b is None:
            yield f"{' '.join(place)}: only in the {'first' if b is None else 'second'}"
        elif a.key != b.key:
            why = list(_changed("", json.loads(a.spec), json.loads(b.spec)))
            why += [] if a.code == b.code else [f"code {a.code} -> {b.code}"]
            yield f"{' '.join(place)}: {a.key} -> {b.key}: {'; '.join(why) or 'its parents differ'}"
            done = [plan.root / plan.folder(node) for plan, node in ((first, a), (second, b))]
            if all(folder.is_dir() for folder in done):
                yield from (f"  {line}" for line in folders(*done) if not line.startswith(("spec", "code")))


def folders(first: Path, second: Path) -> Iterator[str]:
    """Describe how two finished folders differ: slice, code, parents, environment, files."""
    specs = [Parent(folder).spec for folder in (first, second)]
    yield from (f"spec {line}" for line in _changed("", *specs))
    a, b = provenance.read(first), provenance.read(second)
    for part in ("code", "git", "python", "packages", "hardware", "parents", "files"):
        yield from (f"{part} {line}" for line in _changed("", {"": a.get(part)}, {"": b.get(part)}))


def _places(plan: Plan) -> dict[tuple[str, ...], Node]:
    """Return nodes by their place in the experiment, which a changed option does not change, in plan order."""
    places: dict[tuple[str, ...], Node] = {}
    for node in plan:
        spec = json.loads(node.spec)
        names = ("kind", "name") if node.stage == "assets" else ("figure", "criterion", "text", "task", "length")
        words = [str(spec[name]) for name in names if spec.get(name) is not None]
        place, count = (node.stage, *words), 1
        while place in places:
            count += 1
            place = (node.stage, *words, f"#{count}")
        places[place] = node
    return places


def _changed(path: str, a: Any, b: Any) -> Iterator[str]:
    """Yield `path: a -> b` for every leaf that differs."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted(a.keys() | b.keys()):
            yield from _changed(f"{path}.{name}".strip("."), a.get(name), b.get(name))
    elif a != b:
        yield f"{path}: {_short(a)} -> {_short(b)}".lstrip(": ")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
