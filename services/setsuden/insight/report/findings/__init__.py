"""What in a run is worth a person's attention, with evidence and advice."""
