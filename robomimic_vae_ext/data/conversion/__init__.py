"""Datasets of others, completed, translated, or replayed from recorded simulator states."""
