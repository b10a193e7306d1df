"""Studies: tasks x arms x seeds as resumable jobs, with a report."""
