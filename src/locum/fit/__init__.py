"""What a device can do, and whether a candidate fits it: profile, memory, time.

Not here: which candidates there are (``pipeline`` orders the ladder).
"""
