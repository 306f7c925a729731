"""Meters of what is no model: the broker, and Ray around its replicas."""
