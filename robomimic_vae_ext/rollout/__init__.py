"""Evaluation of trained policies in MuJoCo."""
