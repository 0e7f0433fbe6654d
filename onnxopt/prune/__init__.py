"""Removes whole channels, heads and hidden units from a model."""
