"""Results on disk: folders that appear whole, cells, provenance, tables, and the checks of `headscope verify`."""
