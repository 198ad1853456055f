#!/bin/sh
# One initramfs for each kernel, made once, with the modules of initramfs-tools/hooks/hapx.
set -eu

for directory in /usr/lib/modules/*; do
    kernel=${directory##*/}
    [ -e "/boot/vmlinuz-$kernel" ] || continue
    if [ -e "/boot/initrd.img-$kernel" ]; then
        update-initramfs -u -k "$kernel"
    else
        update-initramfs -c -k "$kernel"
    fi
done
