"""Sources of models and benchmark files: hub, package index, folders, Python itself; checked by SHA-256."""
