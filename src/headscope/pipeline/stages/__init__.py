"""One file a stage: `run` takes a slice of the options and parent folders, and fills one folder. `inputs` is shared."""
