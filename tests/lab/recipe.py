"""What is in the hosts' image, and what is left out of it: lists, no code."""
# ruff: noqa: SIM905  long lists of words read best as words

PACKAGES = """
    systemd-sysv udev dbus kmod procps iproute2 openssh-server sudo
    linux-image-amd64 xen-hypervisor-4.17-amd64 xen-utils-4.17 xen-utils-common
    drbd-utils lvm2 python3 python3-libvirt libvirt-daemon-system libvirt-clients
    libvirt-daemon-driver-xen libvirt-daemon-driver-qemu libvirt-daemon-driver-lxc
    qemu-system-x86 qemu-utils
""".split()

# Left out while unpacking, and removed at the end: nothing on a host reads them.
EXCLUDED_PATHS = """
    /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/share/info/* /usr/share/bash-completion/*
    /usr/lib/ipxe/* /usr/share/qemu-efi* /usr/share/zoneinfo/* /usr/share/iso-codes/*
    /lib/modules/*/kernel/sound/* /lib/modules/*/kernel/drivers/gpu/* /lib/modules/*/kernel/drivers/media/*
    /lib/modules/*/kernel/drivers/net/ethernet/* /lib/modules/*/kernel/drivers/net/wireless/*
    /lib/modules/*/kernel/drivers/infiniband/* /lib/modules/*/kernel/drivers/staging/*
""".split()
TRIMMED_PATHS = """
    boot var/cache/apt var/lib/apt/lists usr/lib/udev/hwdb.bin usr/share/perl
    usr/lib/x86_64-linux-gnu/gconv var/log/apt var/log/dpkg.log var/log/bootstrap.log
    etc/apt/sources.list etc/apt/sources.list.d etc/apt/apt.conf.d/99mmdebstrap
    usr/lib/systemd/system-generators
    usr/lib/tmpfiles.d/home.conf usr/lib/tmpfiles.d/journal-nocow.conf usr/lib/tmpfiles.d/passwd.conf
    usr/lib/tmpfiles.d/polkitd.conf usr/lib/tmpfiles.d/portables.conf usr/lib/tmpfiles.d/provision.conf
    usr/lib/tmpfiles.d/systemd-network.conf usr/lib/tmpfiles.d/systemd-nologin.conf
    usr/lib/tmpfiles.d/systemd-nspawn.conf usr/lib/tmpfiles.d/systemd-pstore.conf
    usr/lib/tmpfiles.d/systemd-tmp.conf usr/lib/tmpfiles.d/x11.conf
""".split()

# Whole folders of kernel modules that stay, and single ones; what they depend on stays too.
MODULE_FOLDERS = (
    "kernel/crypto/",
    "kernel/lib/",
    "kernel/arch/",
    "kernel/drivers/virtio/",
    "kernel/drivers/xen/",
)
MODULES = """
    virtio_blk virtio_net virtio_console virtio-rng pvpanic-mmio pvpanic-pci qemu_fw_cfg
    drbd dm-mod dm-flakey dm-delay dm-snapshot dm-mirror loop ext4 fuse overlay
    xen-blkfront xen-netfront xen-blkback xen-netback configfs autofs4
    bridge br_netfilter tun veth macvtap vhost_net inet_diag tcp_diag sch_netem
    nf_tables nft_ct nft_log kvm kvm-intel kvm-amd
""".split()
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4")
GUEST_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "pvpanic-mmio", "xen-blkfront")

# Units that a lab host has no use for; each costs forks, and a fork costs 60 ms under emulation.
# libvirt-guests would start and stop VMs behind the actuator's back.
MASKED_UNITS = """
    apt-daily-upgrade.timer apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    logrotate.timer systemd-tmpfiles-clean.timer e2scrub_reap.service systemd-pstore.service
    lvm2-monitor.service blk-availability.service lvm2-lvmpolld.socket dm-event.socket
    libvirt-guests.service systemd-logind.service getty@tty1.service getty-static.service
    serial-getty@ttyS0.service serial-getty@hvc0.service systemd-journal-flush.service
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service
    systemd-sysusers.service ldconfig.service systemd-journal-catalog-update.service
    systemd-update-done.service systemd-firstboot.service systemd-machine-id-commit.service
    systemd-hwdb-update.service systemd-timesyncd.service systemd-binfmt.service
    kmod-static-nodes.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service
    modprobe@configfs.service modprobe@loop.service modprobe@dm_mod.service
    systemd-udev-settle.service sys-kernel-debug.mount sys-kernel-tracing.mount
    dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount drbd.service machines.target
    systemd-remount-fs.service systemd-sysctl.service systemd-tmpfiles-setup-dev.service
    systemd-pcrphase.service systemd-pcrphase-sysinit.service
    remote-fs.target xen-watchdog.service xendomains.service systemd-user-sessions.service
""".split()
