"""Two or three whole hosts under QEMU, with real Xen or QEMU guests on real DRBD: see `tests.lab.lab.Lab`."""
