#!/bin/sh
# Names, locale, accounts: what holds until a seed says otherwise.
set -eu

printf '%s\n' "$HAPX_HOSTNAME" >/etc/hostname
cat >/etc/hosts <<EOF
127.0.0.1 localhost
127.0.1.1 $HAPX_HOSTNAME
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
EOF
# mmdebstrap brought them from the machine that bakes, with the modes they have there.
chmod 0644 /etc/hostname /etc/hosts

# Every locale that is spoken here is C.UTF-8, which needs no generating.
printf 'LANG=C.UTF-8\n' >/etc/default/locale
ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime

# Nobody logs in with a password, root least of all.
passwd --quiet --lock root

# systemd-resolved answers; the link is there before its first start.
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
