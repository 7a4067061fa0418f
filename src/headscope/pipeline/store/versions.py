"""Releases of the packages that compute: with another release a model may give another answer."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from headscope.errors import ConfigError

ENGINE = ("torch", "transformers")


@cache
def release(package: str) -> str:
    """Return a package's version without its local tag, which names a build (`+cpu`) and no other source.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError as error:
        raise ConfigError(
            f"{package} is not installed; install it, or name the release that jobs have as versions.{package}"
        ) from error


def releases() -> dict[str, str]:
    """Return the releases of this machine."""
    return {package: release(package) for package in ENGINE}
