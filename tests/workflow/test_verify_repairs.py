"""`headscope verify` on a finished project: damage is named, and its own words repair it."""

import os
import shlex
import subprocess
import sys
from contextlib import contextmanager


def headscope(project, *words):
    command = [sys.executable, "-m", "headscope", *words]
    done = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def contents(project):
    """Every result and plain-named copy but what differs from run to run."""
    others = ("logs", ".cache", ".jobs")
    folders = [path for path in (project.root / "results").glob("*/*") if path.parent.name not in others]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files if file.name not in ("provenance.json", "report.html")}


@contextmanager
def damaged(file):
    """Change a byte under the old time, as a rotten disk does; put it back at the end."""
    content, stat = file.read_bytes(), file.stat()
    for text in (content[:-1] + b"x", content):
        file.write_bytes(text)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if text != content:
            yield


def test_what_verify_names_is_repaired_by_the_commands_that_it_prints(finished):
    before = contents(finished)
    status, said = headscope(finished, "verify", "experiment=smoke")
    assert (status, said.splitlines()[-1]) == (0, "plan: 31 of 31 present")
    [masses] = finished.root.glob("results/oracle/fwe-*/masses.parquet")
    with damaged(masses):
        status, said = headscope(finished, "verify", "experiment=smoke")
        assert status == 1
        assert f"damaged  oracle/{masses.parent.name}: masses.parquet has changed since it was made" in said
        calibrations, evaluations, figures = 5, 2, 7
        descendants = said.count(f": made from damaged oracle/{masses.parent.name}")
        assert descendants == calibrations + evaluations + figures
    [picture] = finished.root.glob("results/figures/roc-*/roc.png")
    with damaged(picture):
        (finished.root / "results/figures/smoke/summary.png").write_bytes(b"")
        status, said = headscope(finished, "verify", "experiment=smoke")
        assert status == 1 and f"damaged  figures/{picture.parent.name}: roc.png has changed" in said
        assert "summary.png is not the copy of figures/summary-" in said and "plan: 29 of 31 present" in said
        commands = said.splitlines()[-1].removeprefix("to repair: ").split(", then ")
        for command in commands:
            assert headscope(finished, *shlex.split(command)[1:])[0] == 0
    assert headscope(finished, "verify", "experiment=smoke")[0] == 0
    assert contents(finished) == before
