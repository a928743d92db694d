"""The guards: one hazard, one pure function, one sentence that a person can act on.

A guard gets a situation and gives the sentence of its refusal, or None. Each is safe to ask alone: what
it cannot know it leaves to the guard before it that refuses the unknown. ``check`` runs a tuple of them in
order; the first refusal counts.

On restarting in place while the peer does not answer. A restart promotes nothing when the resource is still
Primary here: this host has held the only right to write since before the domain crashed, so the question is
only whether the peer has become Primary meanwhile. It has not when its own host says so, when DRBD is
connected to it, or when DRBD here holds the peer's disk for Outdated (``replica.Standing``). In every other
case nobody can know: the peer may be cut off from us, and Primary by somebody's hand. Then we refuse,
although the domain ran here a moment ago. A resource that is Secondary here is promoted only with the peer
connected, answering for itself, Secondary, and seeing our disk UpToDate. Without the peer a promotion needs a
fence proof: that of a failover, or an earlier grant of the arbiter to this very host.

A move asks the same of its target, and of its source that it has let the domain go, or cannot have it.
"""
