"""A copy of the project in a temporary folder, driven as a user would: real Snakemake, its own sources and results."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("conf", "src", "workflow", "Snakefile", "profiles")

# A stage without a model: writes its declared files, and a line to `ran.txt`. `{imports}` keeps code digests real.
STAGE = '''"""A stand-in."""

import json
from pathlib import Path
{imports}
FILES = {files}


def run(spec, out, parents):
    for file in (out / name.format_map(spec) for name in FILES):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([spec, [parent.folder.name for parent in parents]]))
'''
IMPORTS = {"evaluation": "\nimport headscope.benchmarks.ruler.metrics\n"}


class Project:
    """A copy of the project.

    Attributes:
        root: its folder.
    """

    def __init__(self, root: Path):
        self.root = root
        for part in PARTS:
            source = ROOT / part
            if source.is_dir() and not source.is_symlink():
                shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, root / part, follow_symlinks=False)
        self.environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}

    def stub_stages(self) -> "Project":
        """Replace every stage by a stand-in that needs no model."""
        from headscope.pipeline.plan.stages import STAGES

        for stage, row in STAGES.items():
            text = STAGE.format(files=row.outputs, imports=IMPORTS.get(stage, ""))
            (self.root / "src/headscope/pipeline/stages" / f"{stage}.py").write_text(text)
        return self

    def inject(self, stage: str, *lines: str) -> None:
        """Let a stand-in do something first."""
        file = self.root / "src/headscope/pipeline/stages" / f"{stage}.py"
        head = "def run(spec, out, parents):\n"
        file.write_text(file.read_text().replace(head, head + "".join(f"    {line}\n" for line in lines)))

    def command(self, hydra: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "-c2", *words, "--config", f"hydra={hydra}"]

    def run(self, hydra: str = "experiment=smoke", *words: str, code: int = 0) -> str:
        """Run Snakemake; return what it said."""
        command = self.command(hydra, *words)
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self, hydra: str = "experiment=smoke", *words: str) -> dict[str, int]:
        """Jobs that Snakemake would run, counted by rule, from its own dry run."""
        text = self.run(hydra, "-n", *words)
        if "Nothing to be done" in text:
            return {}
        table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", text, re.MULTILINE | re.DOTALL)
        assert table, text
        counts: dict[str, int] = {}
        for line in table[1].strip().splitlines():
            rule, count = line.split()
            if rule not in ("all", "default"):
                counts[rule] = int(count)
        return counts

    def append(self, file: str, text: str) -> None:
        """Add text to a source file."""
        path = self.root / file
        path.write_text(path.read_text() + text)
