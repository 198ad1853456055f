#!/bin/sh
# What starts at boot, and what waits for a seed.
set -eu

# The cluster waits: unseeded, Debian's default corosync.conf would form a cluster of one.
# The same list is in system-preset/10-hapx.preset, for a first boot that applies presets.
for unit in corosync corosync-notifyd pacemaker pacemaker_remote crm_mon haproxy; do
    if [ -e "/usr/lib/systemd/system/$unit.service" ]; then
        systemctl disable "$unit.service"
    fi
done

# Of no use in an appliance, and each costs seconds of every boot or wakes a cluster node at a bad moment.
for unit in e2scrub_all.timer e2scrub_reap.service logd.service openhpid.service; do
    if [ -e "/usr/lib/systemd/system/$unit" ]; then
        systemctl disable "$unit"
    fi
done

systemctl enable ssh.service chrony.service systemd-networkd.service systemd-resolved.service
systemctl enable serial-getty@ttyS0.service
