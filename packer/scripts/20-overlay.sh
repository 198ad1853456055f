#!/bin/sh
# Lays files/ over the root: owned by root, not writable by others, whatever the checkout looks like.
set -eu

cd "$HAPX_DATA/files"
find . -name __pycache__ -prune -o -type d -print | while IFS= read -r directory; do
    [ -d "/$directory" ] || install -d -m 0755 "/$directory"
done
lay() {
    mode=$1
    shift
    find . -name __pycache__ -prune -o -type f "$@" -print | while IFS= read -r file; do
        install -m "$mode" "$file" "/$file"
    done
}
# By the mode, not by `test -x`: a machine has these in /run, where nothing can be executed.
lay 0644 ! -perm -0100
lay 0755 -perm -0100

# Python would compile the node's tool at its first start, on the way to the floating IP. By content, not by time: the
# same bytes from each bake.
PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/hapx
