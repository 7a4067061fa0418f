import subprocess
import sys

import torch

from headscope.pipeline import gpus

SEAT = "import sys; from headscope.pipeline.gpus import _seat; print(_seat(2), flush=True); sys.stdin.read()"


def test_processes_sit_down_gpu_by_gpu_and_leave_their_seats_when_they_end(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started = []
    for _ in range(3):
        started.append(
            subprocess.Popen([sys.executable, "-c", SEAT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        started[-1].seat = int(started[-1].stdout.readline())
    assert [process.seat for process in started] == [0, 1, 0]
    started[1].kill()
    started[1].wait()
    again = subprocess.run([sys.executable, "-c", SEAT], input="", capture_output=True, text=True)
    assert int(again.stdout) == 1
    for process in started:
        process.kill()


def test_one_gpu_is_not_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpus, "_seat", None)
    gpus.take_gpu()
