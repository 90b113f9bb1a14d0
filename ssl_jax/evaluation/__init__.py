"""Scores of features, one file each; those that end with `Evaluator = <class>` are found by name."""
