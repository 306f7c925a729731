"""The span bridge: from the broker's OTEL stream to any OTLP/HTTP endpoint or file, metrics too."""
