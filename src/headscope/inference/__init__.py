"""The library's engine: one calibrated criterion inside transformers' `generate`, as fast as the kernels allow.

The context manager and its session, the criterion and its file, calibration in memory, the boundary state, decoding and
prefill steps, CUDA graphs, and the caches of transformers that it can read.
"""
