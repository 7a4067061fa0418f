"""What the assets stage brings here, one module a kind: models, and the files that benchmarks are made of."""
