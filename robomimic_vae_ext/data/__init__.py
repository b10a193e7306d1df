"""Robosuite datasets: scripted experts, collection, conversion, validation."""
