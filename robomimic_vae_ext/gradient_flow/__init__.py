"""Which loss trains which module, who owns it, and did it move: knows torch only."""
