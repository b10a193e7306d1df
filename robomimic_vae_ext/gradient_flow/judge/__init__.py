"""What it means: one fate for each gradient, one verdict for each loss and module, findings."""
