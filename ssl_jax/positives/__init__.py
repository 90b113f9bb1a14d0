"""Which rows of a batch attract each other: one file per kind, each with `Positives = <class>`."""
