"""What figures share: style, reading of tables, scores with intervals, pairs of queries and heads."""
