"""The worker on Ray Serve: placement, restart, health, scaling. No event goes through Ray."""
