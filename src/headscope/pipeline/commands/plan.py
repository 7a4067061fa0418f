"""`headscope plan [option=value ...]`: an experiment's jobs, done and missing."""

from collections.abc import Sequence

from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.unfinished import unfinished


def main(arguments: Sequence[str]) -> int:
    """Print one line a job, and counts."""
    plan = planning.build(arguments)
    reasons = unfinished(plan)
    done = {node.address: node.address not in reasons for node in plan}
    for node in plan:
        print(f"{'done' if done[node.address] else 'missing':<8} {node.address}")
    for address, reason in reasons.items():
        if reason.harmful:
            print(f"{address}: {reason.words}")
    counts = ", ".join(
        f"{stage} {sum(done[node.address] for node in nodes.values())}/{len(nodes)}"
        for stage, nodes in plan.nodes.items()
    )
    for each in plan.left_out():
        print(f"left out {each.reason}")
    print(f"\n{sum(done.values())} of {len(done)} jobs done under {plan.results} ({counts})")
    return 0
