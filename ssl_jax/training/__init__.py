"""What the training loop calls: batches, refreshes, the log, the collapse monitor."""
