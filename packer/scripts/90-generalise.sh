#!/bin/sh
# Takes out everything that would make two clones the same machine, that is secret, or that only the bake needed.
set -eu

# A machine that runs would write some of it anew when it goes down: its randomness, its clock, its journal.
if [ -d /run/systemd/system ]; then
    systemctl stop systemd-random-seed.service chrony.service
    journalctl --relinquish-var
fi

# Identity
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id
rm -f /etc/ssh/ssh_host_*
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -rf /var/lib/dhcp/* /var/lib/dhcpcd/* /var/lib/NetworkManager/* /var/lib/chrony/*
rm -f /etc/udev/rules.d/70-persistent-net.rules
rm -f /etc/iscsi/initiatorname.iscsi /etc/nvme/hostnqn /etc/nvme/hostid

# The cluster's: each cluster gets its own from its seed
rm -f /etc/corosync/authkey /etc/corosync/corosync.conf /etc/pacemaker/authkey
rm -rf /var/lib/corosync/* /var/lib/pacemaker/cib/* /var/lib/pacemaker/pengine/* /var/lib/pacemaker/cores/*
rm -rf /var/lib/pcsd/*
rm -f /etc/ssl/private/ssl-cert-snakeoil.key /etc/ssl/certs/ssl-cert-snakeoil.pem
find /etc/haproxy -name '*.pem' -delete

# Accounts and their traces
# The door that a bake in a virtual machine came through
rm -f /etc/ssh/sshd_config.d/00-hapx-bake.conf /etc/ssh/sshd_config.d/50-cloud-init.conf
rm -rf /root/.ssh /root/.cache /root/.local
rm -f /root/.bash_history /root/.viminfo /root/.wget-hsts
find /home -mindepth 1 -maxdepth 1 -exec rm -rf {} +
find /etc/sudoers.d -type f ! -name README -delete

# The day each account's password was changed: that of the bake, else
[ -z "${SOURCE_DATE_EPOCH:-}" ] ||
    sed -i -E "s/^([^:]*:[^:]*):[0-9]+:/\\1:$((SOURCE_DATE_EPOCH / 86400)):/" /etc/shadow

# cloud-init: the first boot of a clone is a first boot
if [ -d /var/lib/cloud ]; then
    cloud-init clean --logs --seed
    rm -rf /var/lib/cloud/*
fi
rm -f /etc/cloud/cloud.cfg.d/*installer* /etc/netplan/*.yaml /etc/network/interfaces.d/*

# The bake's own: package lists and caches, proxies, logs
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/dpkg/dpkg.cfg.d/99mmdebstrap
rm -f /etc/apt/apt.conf /etc/apt/apt.conf.d/*proxy*
rm -rf /var/log/installer /var/log/journal/*
find /var/log -type f -delete
find /var/tmp /tmp -mindepth 1 -delete 2>/dev/null || true
# What systemd-resolved found when it was installed: the name server of the machine that bakes.
rm -f /etc/.resolv.conf.systemd-resolved.bak
rm -f /etc/*- /etc/.pwd.lock /var/cache/ldconfig/aux-cache

# Caches of what is in /usr are as new as /usr: no boot makes them again (systemd-update-done.service(8)).
touch -r /usr /etc/.updated /var/.updated
