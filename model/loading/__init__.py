"""From a checkpoint to a network that can serve: load, freeze, estimate."""
