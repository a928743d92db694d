"""vmheal's exporter: publishes DRBD, libvirt and LVM state of one hypervisor for Prometheus."""

__version__ = "0.1.0"
