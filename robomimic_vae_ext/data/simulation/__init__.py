"""robosuite: environments, scripted experts, rendering, and the collection of datasets."""
