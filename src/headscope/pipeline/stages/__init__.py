"""One file a stage: a slice of the configuration and parent folders in, one folder out."""
