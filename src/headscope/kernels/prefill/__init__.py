"""Causal attention of whole prompts: each (query, head) pair decides what it reads."""
