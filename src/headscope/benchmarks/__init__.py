"""Benchmarks: text in, text and scores out; they know no model but its tokenizer."""
