"""headscope: which attention heads need the long context, per query."""

__version__ = "0.1.0"
