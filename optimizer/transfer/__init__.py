"""A trained network on a new task, within a given amount of training."""
