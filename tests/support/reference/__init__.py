"""Reference models: plain computations of the expected results, independent of the program's algorithms."""
