#!/bin/sh
# What starts at boot, and what waits for a seed: as the preset says, of what is there.
set -eu

sed -n 's/^\(enable\|disable\) //p' /etc/systemd/system-preset/10-hapx.preset | while IFS= read -r unit; do
    file=$(printf '%s\n' "$unit" | sed 's/@.*\./@./')
    if [ -e "/usr/lib/systemd/system/$file" ] || [ -e "/etc/systemd/system/$file" ]; then
        systemctl preset "$unit"
    fi
done
