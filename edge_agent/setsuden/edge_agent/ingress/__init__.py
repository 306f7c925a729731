"""The doors by which events come in: the broker and local HTTP."""
