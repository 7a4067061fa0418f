"""Compiles every kernel on any machine, for Hopper GPUs and for those of consumers, which have less shared memory.

The interpreter accepts programs that the compiler refuses.
"""

import os
import subprocess
from collections.abc import Mapping
from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from headscope.kernels.common import gluon
from headscope.kernels.common.device import padded
from headscope.kernels.decode import attend as decode
from headscope.kernels.decode import update_clusters
from headscope.kernels.decode.decide import decide
from headscope.kernels.decode.read_bulk import merge, read_bulk
from headscope.kernels.mass import masses as mass
from headscope.kernels.parts import attend as attend_parts
from headscope.kernels.prefill import (
    packed,
    packed_hopper,
    packing,
    partial_sums,
    prefix_moments,
    windows_hopper,
    work_plan,
)
from headscope.kernels.prefill.windows import SINKS, attend_windows, window_tiling

CLUSTER_TYPES = dict.fromkeys(("exact_keys", "exact_values", "metric"), "*fp32")
PLAN_TYPES = dict.fromkeys(("pairs", "counts", "order", "firsts", "lines"), "*i32")
PLAN_TYPES |= dict.fromkeys(("begins", "cuts"), "*i64") | dict.fromkeys(("partial_outputs", "partial_masses"), "*fp32")
SHARED, LITTLE = 227 * 1024, 99 * 1024
"""Bytes of shared memory that a program may have, and those on a consumer's GPU."""
HOPPER, ADA = 90, 89


def compiled(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    warps: int,
    stages: int,
    of: Any = ASTSource,
    arch: int = HOPPER,
) -> Any:
    """Compile a kernel; arguments without a type are 32-bit integers, pointers and strides multiples of 16."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [n for n in names if signature[n].startswith("*") or n.rpartition("_")[2] in ("b", "h", "q", "k", "t")]
    source = of(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, GPUTarget("cuda", arch, 32), {"num_warps": warps, "num_stages": stages})


def masses(dim: int, group: int, arch: int = HOPPER) -> Any:
    """The exact masses."""
    width = padded(dim)
    rows, tile, warps, stages = mass.tiling(width)
    types = {"query": "*bf16", "key": "*bf16", "positions": "*i32", "local": "*fp32", "bulk": "*fp32", "bits": "fp32"}
    constants = {"G": group, "D": dim, "WIDTH": width, "M": rows, "N": tile, "STAGES": stages}
    return compiled(mass._masses, types, constants, warps, stages, arch=arch)


def parts(dim: int, queries: int, hiding: bool, kind: str = "*fp32", arch: int = HOPPER) -> list[Any]:
    """Attention over parts of the keys in the laboratory."""
    width = padded(dim)
    rows, tile = attend_parts.tiling(queries, width)
    types = dict.fromkeys(("query", "hidden", "masses", "outputs", "mass", "output"), "*fp32")
    types |= {"key": kind, "value": kind, "bits": "fp32", "log2e": "fp32"}
    shape = {"D": dim, "WIDTH": width}
    return [
        compiled(attend_parts._attend, types, {**shape, "M": rows, "T": tile, "HIDING": hiding}, 4, 2, arch=arch),
        compiled(attend_parts._merge, types, {**shape, "PARTS": 64}, 4, 3, arch=arch),
    ]


def decoding(
    dim: int, group: int, clusters: int, outliers: int, full: bool, page: int, groups: int, arch: int = HOPPER
) -> list[Any]:
    """The launches of adaptive decoding, and the update of clusters."""
    width, rows, compiled_for = padded(dim), padded(group), partial(compiled, arch=arch)
    stages, dependent = decode.stages(arch == HOPPER), arch == HOPPER
    halves = ("query", "keys", "values", "outlier_keys", "outlier_values", "key_means", "value_means", "covariance")
    halves += ("output",)
    singles = ("size", "spread", "threshold", "slope", "offset", "plain_output", "plain_mass")
    singles += ("partial_outputs", "partial_masses")
    types = dict.fromkeys(halves, "*bf16") | dict.fromkeys(singles, "*fp32") | {"bits": "fp32", "long": "*i8"}
    types |= dict.fromkeys(("lengths", "pages", "outlier_counts", "group_long"), "*i32")
    shape = {"G": group, "D": dim, "WIDTH": width, "N": decode.TILE}
    deciding = {"M": outliers, "C": clusters, "CENTRES": padded(clusters), "FULL": full}
    reading = {**shape, "ROWS": rows, "PAGE": page}
    (slices, at_once), warps = decode.merge_tiling(groups), 4 if width <= 128 else 8
    deciding |= {"LOST": not full, "DEPENDENT": dependent}
    updating = {"D": dim, "WIDTH": width, "C": clusters, "CENTRES": padded(clusters), "PAGE": page}
    updating |= {"COLUMNS": min(update_clusters.COLUMNS, width), "PRECISION": update_clusters.PRECISION}
    merging = {**shape, "GROUPS": groups, "SUMS": at_once, "SLICES": slices, "DEPENDENT": dependent}
    return [
        *(compiled_for(decide, types, {**reading, **deciding, "BY_GROUP": by}, warps, stages) for by in (False, True)),
        compiled_for(read_bulk, types, {**reading, "GROUPS": groups, "DEPENDENT": dependent}, warps, stages),
        compiled_for(merge, types, merging, 4, 3),
        compiled_for(update_clusters._update_clusters, types | CLUSTER_TYPES, updating, 4, 3),
    ]


def prefilling(dim: int, group: int, arch: int = HOPPER) -> list[Any]:
    """The launches of adaptive prefill."""
    width, compiled_for = padded(dim), partial(compiled, arch=arch)
    window, (rows, tile, warps, stages) = window_tiling(width), packed.tiling(width, arch == HOPPER)
    types = dict.fromkeys(("query", "key", "value", "output", "covariance"), "*bf16") | {
        "bits": "fp32",
        "long": "*i8",
        "forced": "*i8",
    }
    types |= dict.fromkeys(("total", "square", "mean", "threshold", "slope", "offset"), "*fp32")
    types |= dict.fromkeys(("summary_of_token", "pairs", "counts"), "*i32") | {"starts": "*i64"}
    packs = {"long": "*i8", "block_counts": "*i32", "pairs": "*i32", "counts": "*i32"}
    shape = {"G": group, "D": dim, "WIDTH": width, "M": rows, "N": tile}
    planning = {name: shape[name] for name in ("G", "M", "N")}
    planning |= {"BLOCK": work_plan.BLOCK, "GROUPS": 16, "HEADS": 16, "PROGRAMS": 256}
    windows = {"M": window[0], "N": window[1], "SINKS": SINKS, "STAGES": window[3], "FORCED": True}
    return [
        compiled_for(attend_windows, types, {**shape, **windows}, window[2], 3),
        compiled_for(prefix_moments._summary_of_token, types, {"M": prefix_moments.TOKENS}, 4, 3),
        compiled_for(prefix_moments._moments, types, {"D": dim, "WIDTH": width}, 1, 3),
        compiled_for(
            prefix_moments._segment_sums,
            types,
            {"D": dim, "WIDTH": width, "COLUMNS": min(64, width), "N": prefix_moments.TILE},
            8,
            3,
        ),
        compiled_for(packing._count_long, packs, {"N": packing.BLOCK}, 4, 3),
        compiled_for(packing._pack, packs, {"N": packing.BLOCK}, 4, 3),
        *(compiled_for(work_plan._plan, PLAN_TYPES, planning | {"INT": kind}, 16, 3) for kind in (tl.int32, tl.int64)),
        compiled_for(packed._packed, types | PLAN_TYPES, {**shape, "STAGES": stages}, warps, stages),
        compiled_for(
            partial_sums._merge,
            types | PLAN_TYPES,
            {n: shape[n] for n in shape if n != "N"} | {"ROWS": partial_sums.SLICE},
            4,
            3,
        ),
    ]


def packed_on_hopper(group: int) -> Any:
    """The packed attention in Gluon; its descriptions of keys and values are typed as its launcher types them."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    kernel, dim, tile = packed_hopper._packed_hopper, gluon.DIM, packed_hopper.TILE
    layout = gl.NVMMASharedLayout.get_default_for([1, 1, tile, dim], gl.bfloat16)
    described = dict.fromkeys(("key", "value"), f"tensordesc<bf16[1,1,{tile},{dim}],{layout!r}>")
    types = described | {"query": "*bf16", "output": "*bf16", "bits": "fp32"} | PLAN_TYPES
    constants = {"G": group, "D": dim, "M": packed_hopper.ROWS, "N": tile, "STAGES": packed_hopper.STAGES}
    return compiled(kernel, types, constants | {"num_warps": 4}, 4, 3, GluonASTSource)


def windows_on_hopper(group: int) -> Any:
    """The windows in Gluon."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    def described(*block: int) -> str:
        layout = gl.NVMMASharedLayout.get_default_for(block, gl.bfloat16)
        return f"tensordesc<bf16[{','.join(map(str, block))}],{layout!r}>"

    dim, tile, sinks, power = gluon.DIM, windows_hopper.TILE, SINKS, triton.next_power_of_2(group)
    types = dict.fromkeys(("query", "output"), described(1, 1, power, windows_hopper.R // power, dim))
    types |= dict.fromkeys(("key", "value"), described(1, 1, tile, dim))
    types |= dict.fromkeys(("sink_key", "sink_value"), described(1, 1, sinks, dim))
    types |= {
        "covariance": described(dim, dim),
        "summary_of_token": "*i32",
        "forced": "*i8",
        "long": "*i8",
        "bits": "fp32",
    }
    types |= dict.fromkeys(("mean", "threshold", "slope", "offset"), "*fp32")
    constants = {"G": group, "HEADS": power, "W": windows_hopper.R // power, "PARTS": windows_hopper.PARTS}
    constants |= {"N": tile, "D": dim, "STAGES": windows_hopper.STAGES, "SINKS": sinks, "FORCED": True, "num_warps": 4}
    return compiled(windows_hopper._windows_hopper, types, constants, 4, 3, GluonASTSource)


def serialised(program: Any) -> bool:
    """Whether the assembler has the tensor cores' products wait for each other (its advice C7515 and the like)."""
    with NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(program.asm["ptx"])
        file.flush()
        command = [get_ptxas(90).path, "--gpu-name=sm_90a", "-o", os.devnull, file.name]
        return "serialized" in subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    for dim, group in ((64, 3), (80, 1), (128, 4), (256, 16)):
        program = masses(dim, group)
        assert program.metadata.shared <= SHARED, f"masses, head_dim {dim}: {program.metadata.shared} bytes"
        assert "wgmma" in program.asm["ptx"], f"masses, head_dim {dim}: no tensor cores of Hopper's"
    for dim, queries, hiding in ((64, 182, False), (80, 7, True), (256, 182, True)):
        for program in parts(dim, queries, hiding, arch=ADA):
            assert program.metadata.shared <= LITTLE, f"parts, head_dim {dim}: {program.metadata.shared} bytes"
    decodings = [
        (64, 3, 16, 340, False, 0, 16),
        (128, 4, 1, 0, True, 16, 256),
        (80, 1, 5, 7, False, 48, 64),
        (256, 16, 16, 64, True, 0, 64),
    ]
    for shape in decodings:
        for stage in [*decoding(*shape), *prefilling(*shape[:2])]:
            # Of the sums along a prompt, a small part of a prefill, only some shapes escape it.
            if stage.metadata.name != "_segment_sums":
                assert not serialised(stage), f"{stage.metadata.name}, {shape}: its products are serialised"
            assert stage.metadata.shared <= SHARED, f"{stage.metadata.name}, {shape}: {stage.metadata.shared} bytes"
    for dim, group in ((64, 3), (128, 4)):
        for stage in [
            masses(dim, group, ADA),
            *decoding(dim, group, 16, 340, False, 0, 32, ADA),
            *decoding(dim, group, 1, 0, True, 16, 32, ADA),
            *prefilling(dim, group, ADA),
        ]:
            assert stage.metadata.shared <= LITTLE, f"{stage.metadata.name}, {dim}: {stage.metadata.shared} bytes"
    for group in (1, 4, 7) if gluon.THERE else ():
        program = packed_on_hopper(group)
        assert program.metadata.shared <= SHARED and not serialised(program), f"packed in Gluon, {group} heads"
        program = windows_on_hopper(group)
        assert program.metadata.shared <= SHARED and not serialised(program), f"windows in Gluon, {group} heads"
