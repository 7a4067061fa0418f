"""`headscope gc [--delete] [option=value ...]`: list or delete results that no experiment of conf/ needs.

Lists and marks of batches (`results/.jobs`) that no experiment has go with them, counted and not named.

Each argument is one more experiment to keep, e.g. 'experiment=smoke window.recent=64' in quotes.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from headscope.pipeline.commands.deletion import delete
from headscope.pipeline.config.compose import find_root
from headscope.pipeline.config.overrides import groups, split
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.batches import batches
from headscope.pipeline.plan.stages import RESULT_STAGES
from headscope.pipeline.store.runs import working
from headscope.pipeline.store.verify import finished, leftovers


def main(arguments: Sequence[str]) -> int:
    """List or delete results; cells stay, because they cost little and save much.

    Raises:
        ConfigError: an experiment cannot be planned, so that nobody knows what it needs; or a run works on the results.
    """
    words = [word for word in arguments if word != "--delete"]
    root = find_root()
    results = [word for word in words if word.startswith("results=")]
    experiments = [split(word) for word in words if word not in results]
    experiments += [[f"experiment={name}"] for name in groups(root)["experiment"]]
    plans = [planning.build([*options, *results], root) for options in experiments]
    needed = {node.address for plan in plans for node in plan}
    place = root / plans[0].results
    folders = [f for f in finished(place, RESULT_STAGES) if f.relative_to(place).as_posix() not in needed]
    batch_files = []
    if not working(place):  # temporary folders and lists of batches may be in use
        folders += leftovers(place)
        batch_files = _batch_files(place, {batch.path for plan in plans for batch in batches(plan)})
    sizes = [_size(folder) for folder in folders]
    for folder, size in zip(folders, sizes, strict=True):
        print(f"{size / 2**20:8.1f} MiB  {folder}", flush=True)
    done = "not needed (add --delete to remove)"
    if "--delete" in arguments:
        delete(place, [*folders, *batch_files], "headscope gc --delete")
        done = "deleted"
    total = f"{len(folders)} results, {sum(sizes) / 2**20:.1f} MiB, and {len(batch_files)} files of batches"
    print(f"{total} {done}; needed: {len(needed)} of {len(plans)} experiments")
    return 0


def _batch_files(results: Path, needed: Collection[str]) -> list[Path]:
    """Return the lists and marks of batches whose path (see `Batch.path`) is not among `needed`."""
    files = sorted(results.glob(".jobs/*/*"))
    return [file for file in files if file.relative_to(results).with_suffix("").as_posix() not in needed]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
