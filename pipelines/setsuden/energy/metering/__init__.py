"""The meter of one process: windows closed, their runs settled, rows and totals kept."""
