"""Benchmarks: text in, text and scores out. They know no model but its tokenizer."""
