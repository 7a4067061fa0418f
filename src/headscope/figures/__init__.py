"""Figures: tables in, picture and CSV out; one file a figure."""
