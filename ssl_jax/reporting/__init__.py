"""What a report says of runs: their records, tables, pictures, and the page."""
