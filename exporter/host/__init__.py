"""vmheal-host: the only program that the actuator's SSH key may run on a host (docs/security.md).

Standard library only, like ``exporter.fence_peer``.
"""
