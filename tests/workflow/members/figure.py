"""How many rows each criterion has."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from headscope.figures.common import style
from headscope.figures.common.tables import Tables


def draw(tables: Tables, title: dict[str, Any], colour: str = "black") -> tuple[Figure, pd.DataFrame]:
    """Draw a bar a criterion."""
    table = tables.rows.groupby("criterion").size().rename("rows").reset_index()
    figure = style.new_figure(style.SINGLE, 2.0)
    figure.subplots().bar(table["criterion"], table["rows"], color=colour)
    return figure, table
