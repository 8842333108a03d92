"""Statistics of values of any kind: distinct, top, first and last."""
