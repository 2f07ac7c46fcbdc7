"""Training, one file per method, in a killable child process.

    job          the child's entry: request in, student folder out, ``trained.json`` last
    linear       TF-IDF and a linear model (scikit-learn)
    head         a frozen body and a linear head, activations computed once
    full         all weights tuned, starting from the head's solution
    rows, batches, forward, softmax, optimiser, schedule, loop, average, checkpoint, vocabulary, frozen
                 the pieces they share

Notable: the schedule is planned from a measured step and written down before training, so a killed and
resumed job ends with the same weights. Importing this package loads nothing. Not here: export (``compress``).
"""
