"""The measuring engine: many criteria over one shared prompt, with everything recorded and nothing made fast.

Exact masses, margins, probes, and answers under every criterion at once. The workflow's stages call it; the library
uses it to calibrate.
"""
