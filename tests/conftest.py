"""Tests share two cores: one torch thread a worker. Nothing reaches a network."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which some library may do before our kernels

for folder in ("models", "lab", "inference"):  # their helpers
    sys.path.insert(0, str(Path(__file__).parent / folder))
