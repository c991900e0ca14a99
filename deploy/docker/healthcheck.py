"""Exit 0 if the server in this container is alive; the image has no curl."""

import os
import urllib.request

LIVE_URL = f"http://127.0.0.1:{os.environ.get('ROUTELM_PORT', '8000')}/health/live"
TIMEOUT_SECONDS = 4

# Docker may pass a proxy into the container; requests to the container itself must not use it.
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(LIVE_URL, timeout=TIMEOUT_SECONDS)
