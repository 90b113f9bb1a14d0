"""The run folder: its config, checkpoints, metrics and scores, written and read back."""
