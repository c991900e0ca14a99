"""Replicas of the server on Ray Serve; a request goes to the replica that has its prefix cached. Needs the extra `ray`.

`app.py` has the two deployments: gateways take HTTP requests and pass them on to replicas of the engine, each of which
runs the whole application. Only `app.py` and `router.py` import ray.
"""
