"""Exact log masses of window and bulk in one pass over the keys; the torch version is `headscope.heads.mass`."""
