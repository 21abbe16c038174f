"""Tales: short stories from a probabilistic grammar whose entropy is known exactly."""
