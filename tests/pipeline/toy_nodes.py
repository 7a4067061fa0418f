"""A stage that copies its spec, so that nodes, provenance and verification are tested without a model."""

import json
import sys
from types import ModuleType

from headscope.pipeline.commands import stage as driver
from headscope.pipeline.plan.node import key_digest

CODE = "0123456789"


def install(monkeypatch, run):
    """Put a stage called `assets` in place, with a code digest of its own."""
    module = ModuleType("headscope.pipeline.stages.assets")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)


def write_spec(spec, out, parents):
    (out / "manifest.json").write_text(json.dumps(spec))


def make(results, name, spec, parents=()):
    """Run the toy stage to a folder with the right address."""
    code = driver.code_digest(*driver.modules("assets", spec))
    out = results / "assets" / f"{name}--{key_digest('assets', spec, [p.name for p in parents], code)}"
    driver.run("assets", spec, out, list(parents))
    return out
