#!/bin/sh
# Lays files/ over the root: owned by root, not writable by others, whatever the checkout looks like.
set -eu

cd "$HAPX_DATA/files"
find . -name __pycache__ -prune -o -type d -print | while IFS= read -r directory; do
    [ -d "/$directory" ] || install -d -m 0755 "/$directory"
done
find . -name __pycache__ -prune -o -type f -print | while IFS= read -r file; do
    mode=0644
    [ ! -x "$file" ] || mode=0755
    install -m "$mode" "$file" "/$file"
done
