"""Architecture-aware models: what runs a whole checkpoint."""
