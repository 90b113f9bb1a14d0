"""What several methods share: memory banks, target networks, named features, signs of collapse."""
