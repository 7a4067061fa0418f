"""One decoding step: attend to windows, decide, read the bulk where a head is long, update clusters of the bulk."""
