"""Bases in PyTorch: checked, loaded, cut to a depth, given a head; students saved and read back.

    architectures   which model types Locum trains, and where their layers are
    base_files      what stands in a base's folder or GGUF file, checked before anything is loaded
    body            the pretrained transformer without its language-model head
    tokenizer       ``tokenizer.json`` of a base, converted from GGUF where needed
    classifier      body, pooling and a linear head; the folder a trained student is saved in
    pico            random models of a few kilobytes, for tests

Notable: no code of a model's repository ever runs, and pickles are never opened. Importing this package
loads nothing; its modules load PyTorch and transformers. Not here: training (``train``), export (``compress``).
"""
