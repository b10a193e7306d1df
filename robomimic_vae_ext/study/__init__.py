"""Comparing runs: what the logs say, and pictures of it."""
