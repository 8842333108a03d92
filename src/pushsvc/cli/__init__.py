"""The command line. Commands import what they run when they run, so that each of them starts quickly."""
