"""Where models and benchmark files come from: hub, package index, folders, Python itself; checked by SHA-256."""
