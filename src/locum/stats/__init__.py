"""Statistics: intervals, paired comparisons, calibration, and the three certificates.

Notable: pure functions of NumPy arrays, deterministic given their seed; every estimator names its paper
or formula and its degenerate case. Nothing is imported here, so a caller pays for what it uses.
Not here: documents (``schema``), policies (``cascade``), anything that reads a file.

    intervals, bootstrap    how sure is one number
    paired                  is a better than b on the same rows
    calibration, ranking    can the confidence be believed; does it sort right from wrong
    selective, marginal, regret   the certificates; ``risk`` holds their common result
    sample_size, multiplicity     labels before labelling; one δ for several statements
"""
