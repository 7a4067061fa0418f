"""Errors a user can act on: each message names the field, the value and the remedy."""


class HeadscopeError(Exception):
    """Base of all errors that the command line prints as one line instead of a traceback."""


class ConfigError(HeadscopeError):
    """An option is unknown, mistyped or out of range."""


class AssetError(HeadscopeError):
    """A model, tokenizer or benchmark file is missing, damaged or refused."""


class LengthError(HeadscopeError):
    """A prompt length lies below a task's minimum or beyond the model.

    Attributes:
        needs: the shortest length that serves, in tokens; None where it is not known.
    """

    def __init__(self, message: str, needs: int | None = None) -> None:
        super().__init__(message)
        self.needs = needs


class UnsupportedModelError(HeadscopeError):
    """The model's attention does something that the criteria do not implement."""


class ShapeError(HeadscopeError, ValueError):
    """Tensors do not fit together."""
