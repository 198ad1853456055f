#!/bin/sh
# Installs the packages of packages.list and of var.extra_packages that are not there yet.
# Nothing to do where mmdebstrap has put them in; a virtual machine's source gets them here.
set -eu

# A name with a release in brackets is for that release alone.
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
wanted="$(sed -e 's/#.*//' -e "s/\\[$release\\]//" -e '/\[/d' "$HAPX_DATA/packages.list") $HAPX_EXTRA_PACKAGES"
missing=
for package in $wanted; do
    case "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done

if [ -n "$missing" ]; then
    # The list of what to leave out has to be there before anything is unpacked.
    install -D -m 0644 "$HAPX_DATA/files/etc/dpkg/dpkg.cfg.d/hapx" /etc/dpkg/dpkg.cfg.d/hapx
    apt-get update
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y --no-install-recommends $missing
fi
