"""The frozen, versioned documents that pass between stages; values only, no I/O."""
