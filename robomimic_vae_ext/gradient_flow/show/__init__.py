"""How it is shown: text, JSON, figure."""
