"""Tasks that cannot be drawn at a length: their folders hold the reason and no rows; other tasks go on without them.

Only the prompts stage can tell, because it measures texts with the model's tokenizer. The folders of a task that is
left out have their declared files, empty, so that Snakemake and `headscope verify` take them for what they are: done.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headscope.errors import AssetError, LengthError

FILE = "left_out.json"


@dataclass(frozen=True)
class LeftOut:
    """Why a task has no prompts.

    Attributes:
        task: the benchmark's.
        length: of the prompts wanted, in tokens.
        seed: of the draws, which may decide.
        needs: the shortest length that serves, in tokens; None where it is not known.
        reason: one sentence that names the task.
    """

    task: str
    length: int
    seed: int
    needs: int | None
    reason: str


def of_error(spec: Mapping[str, Any], error: LengthError) -> LeftOut:
    """Return why the task of a prompts slice is left out."""
    return LeftOut(spec["task"], spec["length"], spec["seed"], error.needs, str(error))


def read(folder: Path) -> LeftOut | None:
    """Return why a finished folder has no rows; None if its task was drawn.

    Raises:
        AssetError: the reason cannot be read.
    """
    file = folder / FILE
    try:
        return LeftOut(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AssetError(f"{file} cannot be read ({type(error).__name__}); make the folder anew") from error


def write(folder: Path, left_out: LeftOut) -> None:
    """Write the reason."""
    (folder / FILE).write_text(json.dumps(asdict(left_out), indent=1) + "\n", encoding="utf-8")


def write_empty(file: Path) -> None:
    """Write a table, tensors or an object with nothing in it, by the file's ending."""
    import pyarrow as pa  # here, because plans read reasons and need nothing else
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    if file.suffix == ".parquet":
        pq.write_table(pa.table({}), file)
    elif file.suffix == ".safetensors":
        save_file({}, file)
    else:
        file.write_text("{}\n", encoding="utf-8")
