#!/bin/sh
# Submits two images to the agent on this machine with curl; needs no Python on the other side.
#
# It prints the agent's readiness, then one result as JSON for each image:
#
#   {"ok":true, ...}
#   {"event_id":"example-device-...","status":"final","tier":"edge","answer":{"label":"2", ...}, ...}
#   {"event_id":"example-device-...","status":"final","tier":"cloud","answer":{"label":"5", ...}, ...}
set -eu
agent=${1:-http://127.0.0.1:8787}
cd "$(dirname "$0")"

curl -sS "$agent/readyz"
echo
for image in easy.raw hard.raw; do
  # ce-id and ce-source name the event: sent again with the same bytes, it is the same event.
  # wait=30 waits 30 seconds for the final result; without it the answer may be provisional.
  curl -sS "$agent/events?wait=30" -H "ce-id: $image-$$" -H 'ce-source: /examples/http.sh' \
    -H 'content-type: application/octet-stream' --data-binary "@$image"
  echo
done
