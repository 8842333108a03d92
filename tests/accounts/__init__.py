"""What must come out, computed from plain lists of what went in: nothing of pushsvc.stats computes what is expected."""
