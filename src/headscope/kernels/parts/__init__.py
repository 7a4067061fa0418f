"""Attention over parts of the keys, which tell their log masses, so that parts can be joined."""
