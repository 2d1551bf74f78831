"""A run against what was accepted before: baselines as files in the user's repository, and what became of each."""
