"""Walks the header of a GGUF file: every length must lie in the file, before anyone makes lists of that length."""

import mmap
import struct
from pathlib import Path

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its type."""
TEXT, ARRAY = 8, 9
DIMENSIONS = 4
"""Of a tensor, at most."""


class _Header:
    """Reads on from a place in the file."""

    def __init__(self, data: mmap.mmap, order: str):
        self.data, self.order, self.at = data, order, 4

    def numbers(self, form: str) -> tuple[int, ...]:
        """Read numbers in a form of `struct`, which raises where the file ends before."""
        values = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += struct.calcsize(self.order + form)
        return values

    def skip(self, size: int) -> None:
        """Go on by so many bytes."""
        if size > len(self.data) - self.at:
            raise ValueError(f"{size} bytes at {self.at} are beyond the end")
        self.at += size

    def skip_text(self) -> None:
        self.skip(*self.numbers("Q"))

    def skip_value(self, kind: int) -> None:
        """Go past a field's value; lists of lists, which no known field is, are refused."""
        if kind == TEXT:
            self.skip_text()
        elif kind == ARRAY:
            inner, length = self.numbers("IQ")
            if inner in SIZES:
                self.skip(length * SIZES[inner])
            elif inner == TEXT:
                for _ in range(length):
                    self.skip_text()
            else:
                raise ValueError(f"a list of values of type {inner}")
        else:
            self.skip(SIZES[kind])

    def skip_tensor(self) -> None:
        """Go past a tensor's name, sizes, type and offset."""
        self.skip_text()
        [dimensions] = self.numbers("I")
        if dimensions > DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        self.numbers(f"{dimensions}QIQ")


def walk_header(gguf: Path) -> None:
    """Check that the header of a file ends within the file.

    Raises:
        ValueError, LookupError, struct.error: it does not, or is no header of GGUF.
    """
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        header = _Header(data, "<" if struct.unpack_from("<I", data, 4)[0] < 1 << 16 else ">")
        _, tensors, fields = header.numbers("IQQ")
        for _ in range(fields):
            header.skip_text()
            header.skip_value(*header.numbers("I"))
        for _ in range(tensors):
            header.skip_tensor()
