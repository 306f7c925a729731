"""The cloud: the teacher worker, its Ray Serve deployment, local stand-ins and reports."""
