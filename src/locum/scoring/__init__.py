"""Scorers: one model's output against the gold answers, by the field's own definitions.

Notable: pure functions. A row's score is a float in [0, 1], and so is every metric of a corpus (BLEU of 31.4 is
0.314 here); a metric that is no mean of rows comes as ``stats.rowwise.Pooled``, so that a bootstrap over rows
needs no second scoring. Each scorer is tested equal to the reference implementation that its module names.
Not here: how an output is read from a completion for a task (``tasks``), intervals (``stats``), asking a model.
"""
