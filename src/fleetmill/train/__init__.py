"""A dataset version becomes a model version."""
