"""`headscope gc [--delete] [option=value ...]`: list or delete results that no experiment of conf/ needs.

Each argument is one more experiment to keep, e.g. 'experiment=smoke window.recent=64' in quotes.
"""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from headscope.errors import ConfigError
from headscope.pipeline.config.compose import find_root
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.store.verify import finished, leftovers


def main(arguments: Sequence[str]) -> int:
    """List or delete results; cells stay, because they cost little and save much."""
    words = [word for word in arguments if word != "--delete"]
    if flags := [word for word in words if word.startswith("-")]:
        raise ConfigError(f"unknown option {flags[0]}; gc knows --delete")
    root = find_root()
    results = [word for word in words if word.startswith("results=")]
    experiments = [shlex.split(word) for word in words if word not in results]
    experiments += [[f"experiment={name}"] for name in groups(root)["experiment"]]
    plans = [planning.build([*options, *results], root) for options in experiments]
    needed = {node.address for plan in plans for node in plan}
    folders = [
        folder for folder in finished(root / plans[0].results) if f"{folder.parent.name}/{folder.name}" not in needed
    ]
    if not any((root / ".snakemake" / "locks").glob("*")):  # a running workflow may be writing them
        folders += leftovers(root / plans[0].results)
    total = 0
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        total += size
        print(f"{size / 2**20:8.1f} MiB  {folder}")
        if "--delete" in arguments:
            _delete(folder)
    done = "deleted" if "--delete" in arguments else "not needed (add --delete to remove)"
    print(f"{len(folders)} results, {total / 2**20:.1f} MiB {done}; needed: {len(needed)} of {len(plans)} experiments")
    return 0


def _delete(folder: Path) -> None:
    """Rename, then delete: an interrupted deletion leaves no half of a result under its name."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    folder.rename(doomed)
    shutil.rmtree(doomed)
