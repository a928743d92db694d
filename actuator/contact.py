"""Who has been heard of, and since when DRBD's connections were seen broken.

From that follows when an isolated host has ended its frozen domains by itself (arbiter's rule R7).

All times are monotonic. Nothing survives a restart of the actuator: it begins with "heard of just now".
"""

from threading import Lock

from exporter.drbd import ConnectionState, Snapshot


class Contacts:
    """Safe to use from several threads at once."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._lock = Lock()
        self._heard: dict[str, float] = {}
        self._parted: dict[tuple[str, str], dict[str, float]] = {}
        """By host and peer: since when the resource was seen unconnected, as that host says."""

    def heard(self, host: str, now: float) -> None:
        """The host has answered, or asked: it is not isolated from us."""
        with self._lock:
            self._heard[host] = max(now, self._heard.get(host, now))

    def saw(self, host: str, snapshot: Snapshot, now: float) -> None:
        """What a host says of its DRBD connections."""
        with self._lock:
            for resource in snapshot.resources:
                for connection in resource.connections:
                    parted = self._parted.setdefault((host, connection.name), {})
                    if connection.connection_state is ConnectionState.CONNECTED:
                        parted.pop(resource.name, None)
                    else:
                        parted.setdefault(resource.name, now)

    def noting(self, host: str, snapshot: Snapshot, now: float) -> Snapshot:
        """Note an answer at the moment that it is there, and hand it on."""
        self.heard(host, now)
        self.saw(host, snapshot, now)
        return snapshot

    def silent_for(self, host: str, now: float) -> float:
        """Seconds since the host was last heard of."""
        with self._lock:
            return now - self._heard.get(host, self._began)

    def quiet_for(self, host: str, peer: str, resources: tuple[str, ...], now: float) -> float:
        """Seconds since the host was last heard of: by us, or by its peer's DRBD for any of these."""
        with self._lock:
            parted = self._parted.get((peer, host), {})
            since = [self._heard.get(host, self._began), *(parted.get(name, now) for name in resources)]
            return now - max(since)
