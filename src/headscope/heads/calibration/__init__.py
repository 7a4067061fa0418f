"""From recorded margins to decisions: maps of each head's margin, thresholds for a target, static rankings.

Code here reads NumPy arrays of one prompt after the other and returns numbers; it runs no model and reads no file.
"""
