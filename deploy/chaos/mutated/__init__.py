"""What a mutated process runs before all else; see `deploy.chaos.mutations`."""
