"""Speed of training, data, rollouts and collection, beside robomimic's own algorithms."""
