"""What several methods share: memory banks and target networks."""
