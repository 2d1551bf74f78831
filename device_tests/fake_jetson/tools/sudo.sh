#!/bin/sh
# FAKE sudo: runs a program of this tree as if root had called it, or refuses where var/lib/fake_jetson/sudo_asks is.
top=$(cd "$(dirname "$0")/../.." && pwd)
state=$top/var/lib/fake_jetson
echo "sudo $*" >>"$state/calls"
[ "${1:-}" != -n ] || shift
if [ -e "$state/sudo_asks" ]; then
  echo "sudo: a password is required" >&2
  exit 1
fi
FAKE_JETSON_UID=0 exec "$@"
