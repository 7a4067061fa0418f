"""GGUF files with a changed byte, count, length, type or field in the header, or cut off."""

import contextlib
import io
import resource
import struct
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import Kind
from hypothesis import strategies as st

from headscope.pipeline.assets.model import fetch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_gguf import write_tiny_gguf

LARGEST, LONGEST = 500_000, 5
"""Kilobytes and seconds of the CPU that a file may take; importing transformers' part for it is in them."""
LARGE = (0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)


@cache
def right(kind: str) -> bytes:
    """Return the bytes of a right file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.gguf")
        write_tiny_gguf(path, kind)
        return path.read_bytes()


@cache
def fields(kind: str) -> dict[str, tuple[int, int]]:
    """Return where each field's type and value stand: the offset of the type, and the end of the value."""
    data, places, at = right(kind), {}, 24
    (count,) = struct.unpack_from("<Q", data, 16)
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def end_of(kind: int, at: int) -> int:
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind == 9:
            inner, length = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(length):
                at = end_of(inner, at)
            return at
        return at + sizes[kind]

    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        name = data[at + 8 : at + 8 + length].decode()
        at += 8 + length
        end = end_of(struct.unpack_from("<I", data, at)[0], at + 4)
        places[name] = (at, end)
        at = end
    return places | {"": (at, at)}


class GgufFile(NamedTuple):
    """A changed file.

    Attributes:
        kind: of tokenizer.
        change: which.
        details: of the change.
    """

    kind: str
    change: str
    details: Any


@st.composite
def gguf_files(draw: st.DrawFn) -> GgufFile:
    """Change one thing of a right file."""
    kind = draw(st.sampled_from(("gpt2", "llama")))
    end = fields(kind)[""][1]
    details: Any
    change = draw(
        st.sampled_from(("bit", "header", "cut", "field type", "field value", "field text", "whole", "tensor"))
    )
    if change == "bit":
        details = draw(st.integers(0, end * 8 - 1))
    elif change == "header":
        details = draw(st.sampled_from(((0, 4), (4, 4), (8, 8), (16, 8)))), draw(st.sampled_from(LARGE))
    elif change == "cut":
        details = draw(st.integers(0, len(right(kind))) | st.integers(0, end))
    elif change in ("field type", "field value", "field text"):
        name = draw(st.sampled_from([name for name in fields(kind) if name]))
        details = name, draw(st.integers(0, 20) if change == "field type" else st.sampled_from(LARGE))
    elif change == "whole":
        details = draw(st.sampled_from(("empty", "text", "zeros", "magic", "zip", "a folder")))
    else:
        details = draw(st.integers(0, 40)), draw(st.sampled_from(LARGE))
    return GgufFile(kind, change, details)


def bytes_of(case: GgufFile) -> bytes:
    """Return the changed file's bytes."""
    data = bytearray(right(case.kind))
    if case.change == "bit":
        data[case.details // 8] ^= 1 << case.details % 8
    elif case.change == "header":
        (at, size), value = case.details
        data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    elif case.change == "cut":
        del data[case.details :]
    elif case.change == "whole":
        odd = {"empty": b"", "text": b"no model\n" * 9, "zeros": bytes(999), "magic": b"GGUF", "zip": b"PK\x03\x04" * 9}
        return odd.get(case.details, b"")
    elif case.change == "tensor":
        place, value = case.details
        at = fields(case.kind)[""][0] + 4 * place
        data[at : at + 8] = value.to_bytes(8, "little")
    else:
        name, value = case.details
        start, end = fields(case.kind)[name]
        if case.change == "field type":
            data[start : start + 4] = value.to_bytes(4, "little")
        elif case.change == "field text":
            at = start + 12 if end - start > 12 else start + 4
            data[at : at + 1] = bytes([value % 256])
        else:
            size = min(8, end - start - 4)
            data[start + 4 : start + 4 + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def check_gguf(case: GgufFile) -> str:
    """Convert the file; a header that is refused takes neither time nor memory."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        path = Path(name, "tiny.gguf")
        if case.details == "a folder":
            path.mkdir()
        else:
            path.write_bytes(bytes_of(case))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            fetch({"type": "folder", "path": str(path)}, Path(name, "model"))
        finally:
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < LARGEST, "more memory"
            assert time.process_time() - start < LONGEST, "seconds"
        return "converted"


KINDS = [Kind("GGUF files", gguf_files(), check_gguf, ci=15, long=400)]
