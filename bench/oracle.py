"""Oracle masses against eager attention weights of the same model, reduced and freed layer by layer.

    python bench/oracle.py [--lengths 2048 8192] [--queries 128]

Each measurement is a process of its own, so that its peak memory is its own. Both give the local share of the last
queries in every layer and must agree.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from common import default_asset, environment, load_asset
from headscope.heads.window import Window
from headscope.lab.masses import record_masses

WINDOW = Window()


def ours(model: torch.nn.Module, ids: list[int], queries: int) -> torch.Tensor:
    """Local shares, [L, H, Q], from exact log masses."""
    layers = record_masses(model, ids, [], len(ids) - queries, WINDOW, [])
    return torch.stack([torch.sigmoid(x.masses.local - x.masses.bulk)[0] for x in layers.values()])


@torch.inference_mode()
def eager(model: torch.nn.Module, ids: list[int], queries: int) -> torch.Tensor:
    """The same from attention weights [H, T, T], a layer at a time."""
    shares = []
    position = torch.arange(len(ids) - queries, len(ids))
    local = WINDOW.local(position, torch.arange(len(ids)))

    def reducing(module, *args, **kwargs):  # type: ignore[no-untyped-def]
        output, weights = eager_attention_forward(module, *args, **kwargs)
        shares.append((weights[0, :, -queries:] * local).sum(-1))
        return output, None

    AttentionInterface.register("eager_reducing", reducing)
    AttentionMaskInterface.register("eager_reducing", eager_mask)
    model.set_attn_implementation("eager_reducing")
    model(torch.tensor([ids]), use_cache=False, logits_to_keep=1)
    return torch.stack(shares)


def measure(options: argparse.Namespace) -> None:
    """Run one way once in this process and print its figures as JSON."""
    model = load_asset(options.asset, "cpu").model
    generator = torch.Generator().manual_seed(0)
    [length] = options.lengths
    ids = torch.randint(0, 40000, (length,), generator=generator).tolist()
    way = {"ours": ours, "eager": eager}[options.way]
    way(model, ids[:256], 32)
    start = time.perf_counter()
    shares = way(model, ids, options.queries)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(shares, options.save)
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024}))


def main() -> None:
    """Print time and peak memory of both ways at each length, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asset", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--way", choices=["ours", "eager"], help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.asset = options.asset or default_asset()
    if options.way:
        measure(options)
        return
    print(environment())
    for length in options.lengths:
        compare(options, length)


def compare(options: argparse.Namespace, length: int) -> None:
    """Measure both ways at one length, ours first, and compare."""
    found, shares = {}, {}
    for way in ("ours", "eager"):
        save = Path(f"results/bench-{way}.pt")
        command = [sys.executable, __file__, "--asset", str(options.asset), "--lengths", str(length)]
        command += ["--queries", str(options.queries), "--way", way, "--save", str(save)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way], shares[way] = json.loads(output.splitlines()[-1]), torch.load(save, weights_only=True)
        save.unlink()
    error = float((shares["ours"] - shares["eager"]).abs().max())
    if not error < 1e-4:
        raise SystemExit(f"{length} tokens: local shares differ by {error:.1e}")
    for way, numbers in found.items():
        print(f"{length} tokens, {way}: {numbers['seconds']:.2f} s, peak {numbers['peak_mib']:.0f} MiB")
    print(
        f"{length} tokens: eager / ours: time {found['eager']['seconds'] / found['ours']['seconds']:.2f}x, "
        f"peak memory {found['eager']['peak_mib'] / found['ours']['peak_mib']:.2f}x (model and libraries included); "
        f"largest difference of shares {error:.1e}"
    )


if __name__ == "__main__":
    main()
