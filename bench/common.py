"""What every bench says about itself, and where it finds a model."""

import platform
import sys
from pathlib import Path

import torch
import transformers

from headscope.models.loading import LoadedModel, load


def environment() -> str:
    """Hardware and versions, one line."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{_processor()}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.processor() or platform.machine()


def default_asset() -> Path:
    """The model folder that the default experiment made; exits with the remedy if there is none."""
    found = sorted(Path("results/assets").glob("*smollm2*--*"))
    if not found:
        sys.exit("no model under results/assets: run `headscope run` once, or name a model folder with --asset")
    return found[-1]


def load_asset(asset: Path, device: str) -> LoadedModel:
    """The model in float32, as the default experiment uses it."""
    return load(asset, "float32", device)
