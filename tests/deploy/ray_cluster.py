"""A Ray cluster on this machine, with the application of server/ray_serve on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .files import ROOT
from .servers import free_port, wait_until

REPLICAS = 3
STARTS = 3
START_SECONDS = 180  # on two cores that others use
OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray takes is 75 MiB
SETTINGS = {
    "ROUTELM_CACHE_BYTES": "96MiB",
    "ROUTELM_MAX_NUM_SEQS": "16",
    "ROUTELM_THREADS": "1",
    "ROUTELM_MAX_QUEUE_WAIT": "600",  # replicas that share two cores must not refuse anything
    "ROUTELM_LOG_LEVEL": "warning",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
}


@dataclass
class RayCluster:
    url: str

    def deploy(self, replicas: int = REPLICAS, **engine: Any) -> None:
        """Change the application, with other options of the deployment Engine; returns when it is so."""
        from ray import serve

        from server.ray_serve.app import Engine, GatewayReplica

        options = {"ray_actor_options": {"num_cpus": 1}, **engine}
        gateway = GatewayReplica.options(ray_actor_options={"num_cpus": 0})
        serve.run(gateway.bind(Engine.options(num_replicas=replicas, **options).bind()), route_prefix="/")
        wait_until(lambda: len(self.replicas()) == replicas, START_SECONDS, f"{replicas} replicas")

    def replicas(self) -> list[str]:
        """The names of the actors that hold engines."""
        import ray

        actors = ray.util.list_named_actors(all_namespaces=True)
        return sorted(actor["name"] for actor in actors if "#Engine#" in actor["name"])

    def kill(self, name: str) -> None:
        """End the process of a replica at once, as SIGKILL does."""
        import ray

        ray.kill(ray.get_actor(name, namespace="serve"))

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=300, trust_env=False, limits=limits)


def without_slow_import(directory: Path) -> Path:
    """For PYTHONPATH. Ray imports jsonschema in every process, which tries a package that takes two seconds."""
    (directory / "rfc3987_syntax.py").write_text("raise ImportError")
    return directory


def start_node(**options: Any) -> Any:
    """A cluster of one node. Ray gives its agents 15 seconds for their imports, which a busy machine may exceed."""
    from ray.cluster_utils import Cluster

    for _ in range(STARTS - 1):
        with suppress(Exception):
            return Cluster(initialize_head=True, head_node_args=options)
    return Cluster(initialize_head=True, head_node_args=options)


@contextmanager
def ray_cluster(directory: Path) -> Iterator[RayCluster]:
    """One node, with a processor for each replica as far as Ray knows."""
    import ray
    from ray import serve

    before = dict(os.environ)
    os.environ.update(SETTINGS, PYTHONPATH=f"{without_slow_import(directory)}:{ROOT}")
    node = {"num_cpus": REPLICAS, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = start_node(**node)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        port = free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        yield RayCluster(f"http://127.0.0.1:{port}")
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
