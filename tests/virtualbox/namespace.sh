#!/bin/bash
# Process 1 of a private mount and PID namespace in which VirtualBox runs; started by chroot.py through unshare.
#
#   namespace.sh ROOT NEW HOME SHARED...
#
# Puts together a root file system in the empty folder NEW: the programs of ROOT read-only, an empty /tmp, /var and
# /dev of its own, and each folder SHARED at the path it has outside. Says its process id, as seen from outside, on a
# line, then stays until its input closes. When it ends, the kernel ends everything in here and no mount is left.
set -eu

root=$1
new=$2
home=$3
shift 3

# An ordinary user's PATH on Debian has no chroot in it.
PATH=$PATH:/usr/sbin:/sbin

# /proc is still the outer one here, so this is the outer process id ($$ would be 1).
read -r pid _ </proc/self/stat

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$new"
mkdir "$new"/{dev,etc,proc,run,usr,var}
mkdir -m 1777 "$new"/{tmp,dev/shm}
for folder in usr etc; do
    mount --bind "$root/$folder" "$new/$folder"
    mount -o remount,bind,ro "$new/$folder"
done
# root's home is not what HOME says to VirtualBox, but what stands here, where that folder is there: and it is where
# something below it is shared.
sed "s|^\(root:.*\):/root:|\1:$home:|" "$root/etc/passwd" >"$new/run/passwd"
mount --bind "$new/run/passwd" "$new/etc/passwd"
cp -a "$root"/{bin,sbin,lib,lib64} "$new"
# VirtualBox's runtime does not start without /proc (VERR_FILE_NOT_FOUND).
mount -t proc proc "$new/proc"
# By name, so that a /dev/vboxdrv of the machine's own never gets in: the tests mean the same everywhere.
for node in null zero full random urandom tty; do
    touch "$new/dev/$node"
    mount --bind "/dev/$node" "$new/dev/$node"
done
for folder; do
    mkdir -p "$new$folder"
    mount --bind "$folder" "$new$folder"
done

# Said from inside: before chroot, whoever enters by the process id would still see the outer root.
# bash reaps what VirtualBox's daemons leave behind while it waits in `read`.
# shellcheck disable=SC2016 # expanded inside
exec chroot "$new" /bin/bash -c 'echo "$0"; read -r _ || exit 0' "$pid"
