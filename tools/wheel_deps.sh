#!/usr/bin/env bash
# Run by cibuildwheel inside its Linux images: installs OpenSSL 3 and, on x86-64 where the
# distribution has it, intel-ipsec-mb, and makes /opt/iroh-fast-deps a prefix of both.
set -euo pipefail

prefix=/opt/iroh-fast-deps
mkdir -p "$prefix/include" "$prefix/lib"

# link INCLUDE_DIR LIBRARY_PATTERN…: make headers and libraries reachable below the prefix
link() {
    local headers=$1 library
    shift
    ln -sfn "$headers" "$prefix/include/$(basename "$headers")"
    for library in "$@"; do
        if [ -e "$library" ]; then ln -sf "$library" "$prefix/lib/"; fi
    done
}

if command -v dnf >/dev/null; then # manylinux_2_28: AlmaLinux 8, whose own OpenSSL is 1.1
    dnf -y install epel-release
    dnf -y install openssl3-devel
    link /usr/include/openssl3/openssl /usr/lib64/openssl3/libcrypto.so /usr/lib64/libcrypto.so.3
    if [ "$(uname -m)" = x86_64 ]; then
        dnf -y --enablerepo=powertools install intel-ipsec-mb-devel ||
            echo "no intel-ipsec-mb here: the wheel uses OpenSSL alone"
    fi
elif command -v apk >/dev/null; then # musllinux
    apk add openssl-dev linux-headers
    link /usr/include/openssl /usr/lib/libcrypto.so /usr/lib/libcrypto.so.3 /lib/libcrypto.so.3
    if [ "$(uname -m)" = x86_64 ]; then
        apk add intel-ipsec-mb-dev || echo "no intel-ipsec-mb here: the wheel uses OpenSSL alone"
    fi
else
    echo "neither dnf nor apk: nothing installed" >&2
    exit 1
fi

if [ -e /usr/include/intel-ipsec-mb.h ]; then
    ln -sf /usr/include/intel-ipsec-mb.h "$prefix/include/"
    for library in /usr/lib64/libIPSec_MB.so* /usr/lib/libIPSec_MB.so*; do
        if [ -e "$library" ]; then ln -sf "$library" "$prefix/lib/"; fi
    done
fi
ls -l "$prefix/include" "$prefix/lib"
