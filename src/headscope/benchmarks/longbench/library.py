"""Source code and prose without a download: modules of Python's standard library.

They differ between Python versions (their digest is in the assets' manifest). What a task reads out of a file of them
depends on that file alone: strings and comments are searched for, not parsed by the Python that happens to run.
"""

import json
import re
import sysconfig
from pathlib import Path

from headscope.benchmarks.longbench.splits import is_calibration
from headscope.benchmarks.task import Split
from headscope.errors import AssetError, ConfigError

# In every CPython of 3.11 to 3.14; no tests, tables of data, or parts that distributions leave out.
MODULES = """
_collections_abc _py_abc _pydecimal _pyio _strptime argparse ast asyncio.base_events asyncio.events asyncio.futures
asyncio.locks asyncio.proactor_events asyncio.queues asyncio.runners asyncio.selector_events asyncio.sslproto
asyncio.streams asyncio.subprocess asyncio.taskgroups asyncio.tasks asyncio.timeouts asyncio.transports
asyncio.unix_events base64 bdb bisect calendar cmd code codecs collections compileall concurrent.futures._base
concurrent.futures.process concurrent.futures.thread configparser contextlib copy csv ctypes ctypes.util dataclasses
difflib dis doctest email._header_value_parser email._parseaddr email._policybase email.charset email.contentmanager
email.feedparser email.generator email.header email.headerregistry email.message email.policy email.utils enum filecmp
fileinput fnmatch fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac html.parser
http.client http.cookiejar http.cookies http.server imaplib importlib._bootstrap importlib._bootstrap_external
importlib.abc importlib.util inspect ipaddress json.decoder json.encoder linecache locale logging logging.config
logging.handlers lzma mailbox mimetypes modulefinder multiprocessing.connection multiprocessing.context
multiprocessing.heap multiprocessing.managers multiprocessing.pool multiprocessing.process multiprocessing.queues
multiprocessing.reduction multiprocessing.shared_memory multiprocessing.sharedctypes multiprocessing.synchronize
multiprocessing.util netrc ntpath numbers operator optparse os pdb pickle pickletools pkgutil platform plistlib poplib
posixpath pprint profile pstats pyclbr pydoc queue quopri random reprlib runpy sched secrets selectors shelve shlex
shutil site smtplib socket socketserver ssl statistics string stringprep subprocess symtable tarfile tempfile textwrap
threading timeit tokenize tomllib._parser trace traceback tracemalloc types typing unittest.async_case unittest.case
unittest.loader unittest.main unittest.mock unittest.result unittest.runner unittest.suite unittest.util urllib.error
urllib.parse urllib.request urllib.robotparser uuid warnings wave weakref webbrowser wsgiref.handlers wsgiref.headers
wsgiref.simple_server wsgiref.validate xml.dom.expatbuilder xml.dom.minidom xml.dom.pulldom xml.etree.ElementPath
xml.etree.ElementTree xml.sax.expatreader xml.sax.handler xml.sax.saxutils xml.sax.xmlreader xmlrpc.client
xmlrpc.server zipapp zoneinfo._common zoneinfo._tzpath zoneinfo._zoneinfo
"""

# A string in three quotes (group 1), a comment, a string of one line.
STRING_OR_COMMENT = re.compile(
    r'("""|\'\'\')(?:\\.|(?!\1).)*?\1' r"|#[^\n]*" r'|"(?:\\.|[^"\\\n])*"' r"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)


def standard_library() -> dict[str, str]:
    """Return the sources of MODULES by name; a Python that leaves some of them out gives the others.

    Raises:
        AssetError: this Python keeps no source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    sources = {}
    for name in MODULES.split():
        path = root.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
        if file.is_file():
            sources[name] = file.read_text(encoding="utf-8")
    if not sources:
        raise AssetError(f"no module of the standard library has a source file in {root}; use another Python")
    return sources


def read_library(path: Path, split: Split) -> dict[str, str]:
    """Return the sources of a split's modules by name, in the order of names; no module is of both splits.

    Raises:
        AssetError: the file is missing, or not what `standard_library` gives.
        ConfigError: no module is of the split.
    """
    try:
        sources = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} is no JSON file ({error}); make it of the standard library again") from error
    if not isinstance(sources, dict) or not all(isinstance(source, str) for source in sources.values()):
        raise AssetError(f"{path} is not sources by module's name; make it of the standard library again")
    modules = {name: sources[name] for name in sorted(sources) if is_calibration(name) == (split == "calibration")}
    if not modules:
        raise ConfigError(f"none of the {len(sources)} modules in {path} is for {split}; give all of the library")
    return modules


def without_strings(source: str) -> str:
    """Return code with spaces in place of all strings and comments; lines stay lines."""
    return STRING_OR_COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)


def documentation(source: str) -> list[list[str]]:
    """Return the texts in three quotes of a source, each as its paragraphs, each paragraph on one line."""
    texts = (match[0][3:-3] for match in STRING_OR_COMMENT.finditer(source) if match[1])
    return [[" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)] for text in texts]
