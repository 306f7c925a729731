"""What both tiers run: bundles, codec, sessions, gate, energy and traces."""
