"""Shared parts of figures: reading tables, statistics with intervals, the look, pieces of pictures."""
