"""Figures, one file each: finished tables in, a picture and the table behind it out. `common` holds what they share."""
