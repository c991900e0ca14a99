"""Ray Serve's request router of the engine's replicas."""

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from server.ray_serve.forwarding import ForwardedRequest
from server.ray_serve.prefix_index import PrefixAffinity


class PrefixAffinityRouter(RequestRouter):
    """Sends a request to a replica that holds its prefix, unless that one is overloaded.

    Serve takes the replica with the fewest requests of the first rank in which one has room.
    """

    def initialize_state(self, **options: Any) -> None:
        """`options`: see PrefixAffinity; `request_router_kwargs` of the deployment."""
        self._affinity = PrefixAffinity(**options)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # before Serve asks again, if no replica has room
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {key: self._load(replica.replica_id) for key, replica in replicas.items()}
        ranks = self._affinity.rank(_digests(pending_request), loads)
        return [[replicas[key] for key in rank] for rank in ranks]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        self._affinity.index.record(_digests(pending_request), replica_id.unique_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._affinity.index.keep({replica.replica_id.unique_id for replica in replicas})

    def _load(self, replica_id: ReplicaID) -> int:
        """The requests that a replica has, as far as this router knows."""
        return self.replica_queue_len_cache.get(replica_id) or 0


def _digests(pending_request: PendingRequest) -> Sequence[bytes]:
    (request,) = pending_request.args
    return request.prefix_digests if isinstance(request, ForwardedRequest) else ()
