"""Recordings become a dataset version."""
