#!/usr/bin/env bash
# usage: binfmt.sh on|off        root; `on` lets the kernel start arm64 programs through qemu-user, `off` takes that back
#
# The registration is the whole kernel's, so it has a name of its own: `off` never removes what the system registered,
# and `on` registers nothing where there is such a handler already.
set -euo pipefail

fs=/proc/sys/fs/binfmt_misc
ours=$fs/edgesmith-aarch64
qemu=/usr/bin/qemu-aarch64-static
# The first 20 bytes of a 64-bit little-endian ELF file for AArch64, executable or shared.
magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

case ${1:-} in
  on)
    [ -e "$fs/register" ] || mount -t binfmt_misc none "$fs"
    # Any handler for these bytes will do, whoever registered it and whatever it is called.
    ! grep -qs '^magic 7f454c4602010100*0200b7' "$fs"/* || exit 0
    # F: the interpreter is opened now, so it works in a chroot that does not hold it. O, C: it gets the program open and
    # with the program's credentials. P: argv[0] is kept.
    printf '%s' ":edgesmith-aarch64:M::$magic:$mask:$qemu:OCPF" > "$fs/register"
    ;;
  off)
    [ ! -e "$ours" ] || echo -1 > "$ours"
    ;;
  *)
    sed -n 2p "$0" >&2
    exit 2
    ;;
esac
