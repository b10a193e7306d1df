"""What happened: torch calls as events, and each gradient from its backward to its end."""
