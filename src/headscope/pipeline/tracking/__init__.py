"""Replays finished results into a tracker, one run a result; no result and no other room depends on it."""
