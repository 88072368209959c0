"""Apply a plan to a model: absorb or refit weights, then cut the channels that are no longer read."""
