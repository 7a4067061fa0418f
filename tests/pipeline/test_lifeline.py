"""The end of Snakemake's jobs, here and on a cluster."""

import signal

import pytest

from headscope.pipeline import lifeline


def test_local_jobs_are_ended_before_snakemake_starts_to_cancel_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to the group that came later would end the command that cancels them (`scancel`)."""
    sent: list[tuple[str, int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(("process", pid, number)))
    monkeypatch.setattr("os.killpg", lambda group, number: sent.append(("group", group, number)))
    lifeline.interrupt(7)
    assert sent == [("group", 7, signal.SIGTERM), ("process", 7, signal.SIGINT)]
