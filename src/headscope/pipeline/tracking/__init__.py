"""Replays finished results into a tracker; no result depends on it."""
