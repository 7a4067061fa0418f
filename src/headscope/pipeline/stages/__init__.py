"""One file a stage: `run` fills an empty folder from a slice of options and finished folders; `inputs` is shared."""
