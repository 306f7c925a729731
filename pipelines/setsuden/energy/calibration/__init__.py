"""A machine's own power curve, through idle, half and full load."""
