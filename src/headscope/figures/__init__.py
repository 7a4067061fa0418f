"""Figures, one a file: tables of finished nodes in, a picture and the table behind it out.

Each has `draw(tables, title, **options)`: `title` is what the footer names. Options that figures share: `resamples`
of the bootstrap; `floor`, below which a dense score leaves a task out of means. `common` holds what figures share.
"""
