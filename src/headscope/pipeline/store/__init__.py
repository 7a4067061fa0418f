"""Results on disk: files that appear whole, cells, provenance, tables, and verification against the plan."""
