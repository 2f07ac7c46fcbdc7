"""Addresses to verified local files, and the catalogue of bases.

``hf://``, ``pypi://``, ``https://`` and paths; tried in order; SHA-256; resumable; atomic; offline mode.
Not here: reading data formats (``data``) or model weights (``models``).
"""
