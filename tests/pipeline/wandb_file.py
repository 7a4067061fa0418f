"""Reads an offline run back: 7 bytes of header, then LevelDB log framing around protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a .wandb file."""
    data, position, parts = file.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # too little room for a header: padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or last part
            yield Record.FromString(parts)
            parts = b""


class OfflineRun:
    """What an offline run folder holds."""

    def __init__(self, folder: Path):
        (file,) = folder.glob("*.wandb")
        self.folder, self.records = folder, list(records(file))
        self.run = next(record.run for record in self.records if record.HasField("run"))
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history: dict[str, Any] = {}
        for record in self.records:
            for item in record.history.item:
                self.history[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        self.artifacts = [record.request.log_artifact.artifact for record in self.records] + [
            record.artifact for record in self.records if record.HasField("artifact")
        ]
        self.finished = any(record.HasField("exit") for record in self.records)

    def table(self, name: str) -> dict[str, Any]:
        """A logged table's columns and data."""
        return json.loads((self.folder / "files" / self.history[f"{name}.path"]).read_text())
