"""Energy sources: one file for each way in which a figure is read, rows of data for each board."""
