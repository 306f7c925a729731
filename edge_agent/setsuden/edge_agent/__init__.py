"""The device: accepts events, answers the easy ones, escalates the hard ones, loses none."""
