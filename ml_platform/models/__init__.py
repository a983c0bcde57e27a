"""The catalogue: one folder is one model."""
