"""Rolling windows of panes."""
