"""From images to features and scores, and encoders to take elsewhere."""
