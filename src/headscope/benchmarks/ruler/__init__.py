"""RULER (arXiv 2404.06654; NVIDIA/RULER @ c3f5e3b): prompts byte for byte, generators our own."""
