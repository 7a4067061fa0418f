"""JSON files that later runs read: each names its format and holds a digest of its content.

Files of a result's folder need neither: its address digests the code that wrote them, and provenance.json holds their
digests. Provenance itself and cached compositions are read by code of any age, so they are sealed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headscope.errors import AssetError

FORMAT = 1
"""Version of the fields of sealed files; a release that changes them counts on."""


class UnsealedError(AssetError):
    """A file was written by a version of headscope that did not seal it yet."""


def write_sealed(file: Path, content: Mapping[str, Any]) -> None:
    """Write `content` in the order of its keys, one a line."""
    file.write_text(_sealed(content), encoding="utf-8")


def read_sealed(file: Path) -> dict[str, Any]:
    """Return the content of a sealed file.

    Raises:
        AssetError: the file is missing, is not byte for byte what was written, or has an unknown format.
        UnsealedError: it has none yet.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError as error:
        raise AssetError(f"{file} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{file} cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise AssetError(f"{file} is garbled")
    if not {"format", "sha256"} & content.keys():
        raise UnsealedError(f"{file} was written by an older version of headscope")
    version = content.pop("format", None)
    if version != FORMAT:
        raise AssetError(f"{file} has format {version!r}, and this version of headscope knows {FORMAT} alone")
    content.pop("sha256", None)
    if _sealed(content) != text:
        raise AssetError(f"{file} has changed since it was made")
    return content


def _sealed(content: Mapping[str, Any]) -> str:
    body = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return f'{{\n"format": {FORMAT},\n"sha256": "{hashlib.sha256(body.encode()).hexdigest()}",\n{body}\n}}\n'
