"""What every process of ours does: configuration, log lines, readiness, stopping, reloading."""
