"""Images into clusters: assignments, their tables and contact sheets."""
