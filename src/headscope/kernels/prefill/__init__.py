"""Causal attention of whole prompts in which every (query, head) pair decides what it reads."""
