"""Which rows of a batch attract each other: one file a kind, each ends with `Positives = <class>`."""
