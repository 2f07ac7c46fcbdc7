"""Measuring: predictions kept in files, metrics with intervals, latency, comparisons, choices, cost.

Notable: everything said about a student's quality is worked out from its saved predictions
(``evaluate.predictions``), so a figure can be recomputed and two students are compared row by row.
Not here: certificates (``cascade``), drawing (``report``).
"""
