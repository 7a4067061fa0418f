"""What jobs cost."""

import json
from functools import lru_cache

from headscope.pipeline.plan.node import Node, ancestors

REFERENCE = {"evaluation": 100, "dense": 37, "margins": 24, "oracle": 24, "probes": 12, "moments": 15}
OTHERS = {"prompts": 6, "calibration": 2}
SIZE = 30 * (9 * 64) ** 2


def work(node: Node) -> float:
    """Return about how many seconds a job takes."""
    return OTHERS.get(node.stage, 1) + _size(node) / SIZE * REFERENCE.get(node.stage, 0)


@lru_cache
def _size(node: Node) -> float:
    """Return the layers times the squared width of the model that a job works on."""
    models = (json.loads(each.spec)["expect"] for each in ancestors([node]) if '"kind":"model"' in each.spec)
    expect = next(models, None)
    return expect["layers"] * (expect["heads"] * expect["head_dim"]) ** 2 if expect else 0
