"""The statistics engine: panes and windows over them. numpy only, no I/O, no clock."""
