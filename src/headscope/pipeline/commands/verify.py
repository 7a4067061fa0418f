"""`headscope verify [option=value ...]`: compare all results with their provenance, the present code and the plan.

Exit code 1 if a result is damaged. Sound results of older code or other options are only counted.
"""

from collections.abc import Sequence

from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.unfinished import unfinished
from headscope.pipeline.progress import progress
from headscope.pipeline.store.verify import finished, verify


def main(arguments: Sequence[str]) -> int:
    """Print the damaged results, counts and the remedy."""
    plan = planning.build(arguments)
    results = plan.root / plan.results
    folders = list(finished(results))
    findings = [finding for folder in progress(folders, "verify") for finding in verify(folder)]
    damaged = [finding for finding in findings if finding.harmful]
    for finding in damaged:
        print(f"damaged  {finding.folder.relative_to(results)}: {finding.problem}")
    known = {node.address for node in plan}
    missing = unfinished(plan)
    other = sum(f"{folder.parent.name}/{folder.name}" not in known for folder in folders)
    old = len({finding.folder for finding in findings} - {finding.folder for finding in damaged})
    print(f"{len(folders)} results: {len({finding.folder for finding in damaged})} damaged, {old} of older code")
    print(f"plan: {len(known) - len(missing)} of {len(known)} jobs done; {other} results belong to no job of it")
    if damaged:
        print("remedy: delete the damaged folders and run again; results made from them are named too")
    return 1 if damaged else 0
