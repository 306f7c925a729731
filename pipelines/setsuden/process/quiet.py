"""Importing this keeps third-party libraries from reporting to their makers; do so before theirs.

onnxruntime 1.29 and newer looks up a host of its maker's when it is imported, sends to it, and
keeps a device id below the home folder. Ray reports its usage once a cluster is up. The switches
are environment variables, so child processes inherit them. They override what was there: nothing
of ours talks to anybody who was not configured.
"""

from __future__ import annotations

import os

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A head of `ray start` reports even that it does not report: to nobody, then.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
}

os.environ.update(SWITCHES)
