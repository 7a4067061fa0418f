"""GSM8K-style and MMLU-style many-shot prompts: worked examples fill the context, one more question follows.

After the two harder benchmarks of arXiv 2502.09647, which publishes no code: the wording here is ours.
"""
