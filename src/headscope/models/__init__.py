"""Models: loading, the registered attention function and the batched decoding engine."""
