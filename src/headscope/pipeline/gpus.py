"""Shares out the GPUs of one machine among the processes that work on it, of whatever run.

Each holds the lock of a seat while it lives. Seats are taken GPU by GPU, so that no GPU has two before all have one.
"""

import os
import tempfile
from itertools import count
from pathlib import Path
from typing import IO

import torch

_HELD: list[IO[str]] = []  # an open file keeps its lock; the system takes it back however the process ends


def take_gpu() -> None:
    """Make the visible GPU with the fewest processes of this user the one that `cuda` names here."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(_seat(torch.cuda.device_count()))


def _seat(gpus: int) -> int:
    """Take the first free seat; return its GPU."""
    import fcntl  # not on Windows, where nothing has two GPUs

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    folder = Path(tempfile.gettempdir(), f"headscope-gpus-{os.getuid()}-{visible}")
    folder.mkdir(exist_ok=True)
    for seat in count():
        file = (folder / str(seat)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _HELD.append(file)
        return seat % gpus
    raise AssertionError("seats do not end")
