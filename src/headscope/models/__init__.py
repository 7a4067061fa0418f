"""Models of the transformers library: folders and files they are loaded from, sizes, rotary turns, the attention call.

Code here asks the model what it does and refuses what is not verified. It decides nothing about heads.
"""
