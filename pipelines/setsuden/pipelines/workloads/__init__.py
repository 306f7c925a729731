"""Built-in workloads on real data: a bundle and a loader each."""
