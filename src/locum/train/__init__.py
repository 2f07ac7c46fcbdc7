"""Training, one file per method, in a killable child process.

    job          the child's entry for classifiers: request in, student folder out, ``trained.json`` last
    linear       TF-IDF and a linear model (scikit-learn)
    head         a frozen body and a linear head, activations computed once
    full         all weights tuned, or adapters that are merged, starting from the head's solution
    tune         the child's entry for decoders that write answers: full, LoRA, DoRA
    loop         steps by a written schedule, dev, checkpoints, stops; ``classifying`` and ``generating`` say of what
    rows, batches, forward, softmax, classifying, workbench, vocabulary, wide, average, dropout
                 the pieces of classifiers
    conversations, mixing, packing, attention, lean, answer_loss, adapters, generating, ranks
                 the pieces of generators
    recipe, schedule, optimiser, checkpoint, stopping, outcome, frozen
                 the pieces of both

Notable: the schedule is planned from a measured step and written down before training, so a killed and
resumed job ends with the same weights. Importing this package loads nothing. Not here: export (``compress``).
"""
