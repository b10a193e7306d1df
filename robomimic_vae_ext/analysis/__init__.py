"""What training runs logged, and what the critic and the actor of a checkpoint do."""
