#!/bin/sh
# FAKE tegrastats: tells lines that were recorded on real boards, over and over. Nothing is measured.
top=$(cd "$(dirname "$0")/../.." && pwd)
state=$top/var/lib/fake_jetson
uid=${FAKE_JETSON_UID:-$(id -u)}
interval=1000
logfile=
while [ $# -gt 0 ]; do
  case $1 in
    --interval)
      interval=$2
      shift
      ;;
    --logfile)
      logfile=$2
      shift
      ;;
    --stop)
      [ ! -e "$state/tegrastats.pid" ] || kill "$(cat "$state/tegrastats.pid")"
      exit 0
      ;;
    *)
      echo "FAKE tegrastats (edgesmith): --interval ms, --logfile file, --stop" >&2
      exit 1
      ;;
  esac
  shift
done
echo "FAKE tegrastats (edgesmith): recorded lines, nothing is measured" >&2
echo $$ >"$state/tegrastats.pid"
trap 'exit 0' TERM INT
lines=$state/tegrastats.user
[ "$uid" != 0 ] || lines=$state/tegrastats.root
seconds=$(awk -v ms="$interval" 'BEGIN { printf "%.3f", ms / 1000 }')
while :; do
  while IFS= read -r line; do
    if [ -n "$logfile" ]; then echo "$line" >>"$logfile"; else echo "$line"; fi
    sleep "$seconds"
  done <"$lines"
done
