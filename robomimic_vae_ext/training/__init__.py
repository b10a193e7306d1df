"""Training by robomimic's own train.py, checked before it starts and continued after any end."""
