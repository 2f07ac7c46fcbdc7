"""Students that answer: an engine, the task's kind and a calibrated confidence, behind one small protocol.

Notable: evaluation and serving both answer through this room, so what was measured is what is served. A student that
scores labels answers from its logits; every other one drafts an answer with facts about how it came, and a fitted
``ConfidenceModel`` turns those into a confidence. Not here: engines (``runtime``), prompts and reading (``tasks``),
hand-over (``cascade``).
"""
