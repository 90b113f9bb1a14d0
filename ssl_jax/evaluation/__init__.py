"""Scores of features, one per file; files that end with `Evaluator = <class>` are found by name."""
