#!/bin/sh
# FAKE nvpmodel: keeps its mode in the files of the tree it lies in, and writes the tree's clocks. No Jetson is touched.
# Beside it in var/lib/fake_jetson: calls (what was asked), nvpmodel.delay_s (how long a change takes).
top=$(cd "$(dirname "$0")/../.." && pwd)
conf=$top/etc/nvpmodel.conf
status=$top/var/lib/nvpmodel/status
state=$top/var/lib/fake_jetson
uid=${FAKE_JETSON_UID:-$(id -u)}
echo "nvpmodel $*" >>"$state/calls"

now() { sed -n 's/.*pmode:0*\([0-9][0-9]*\).*/\1/p' "$status" 2>/dev/null; }
name_of() { sed -n "s/^ *< *POWER_MODEL ID=$1 NAME=\([^ ]*\) *>.*/\1/p" "$conf"; }
# The value of a setting within one mode's part of the file.
setting() { awk -v id="ID=$1" -v key="$2" -v what="$3" '/POWER_MODEL/ { on = ($0 ~ id " ") } on && $1 == key && $2 == what { print $3 }' "$conf"; }

put() { [ ! -e "$1" ] || echo "$2" >"$1"; }

apply() {
  for folder in "$top"/sys/devices/system/cpu/cpufreq/policy*; do
    put "$folder/scaling_max_freq" "$(setting "$1" CPU MAX_FREQ)"
    put "$folder/scaling_min_freq" "$(setting "$1" CPU MIN_FREQ)"
    put "$folder/scaling_cur_freq" "$(setting "$1" CPU MAX_FREQ)"
  done
  for folder in "$top"/sys/class/devfreq/*; do
    put "$folder/max_freq" "$(setting "$1" GPU MAX_FREQ)"
    put "$folder/min_freq" "$(setting "$1" GPU MIN_FREQ)"
  done
  mkdir -p "$(dirname "$status")"
  printf 'pmode:%04d fmode:quiet\n' "$1" >"$status"
}

set_mode() {
  if [ -z "$(name_of "$1")" ]; then
    echo "NVPM ERROR: no mode with ID $1" >&2
    exit 255
  fi
  if [ "$uid" != 0 ]; then
    echo "NVPM ERROR: Error opening $status: 13" >&2
    exit 255
  fi
  before=$(now)
  if [ "$(setting "$1" TPC_POWER_GATING TPC_PG_MASK)" != "$(setting "${before:-0}" TPC_POWER_GATING TPC_PG_MASK)" ]; then
    echo "NVPM WARN: Golden image context is already created"
    echo "NVPM WARN: Reboot required for changing to this power mode: $1"
    echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm: "
    if ! read -r answer; then
      echo "NVPM ERROR: bad input!"
      exit 234
    fi
    case $answer in
      yes | YES)
        echo "NVPM WARN: rebooting"
        echo rebooted >>"$state/rebooted"
        apply "$1"
        exit 0
        ;;
    esac
    echo "NVPM ERROR: optMask is 1, no request for power mode"
    exit 234
  fi
  sleep "$(cat "$state/nvpmodel.delay_s" 2>/dev/null || echo 0)"
  apply "$1"
  echo "nvpmodel done $1" >>"$state/calls"
}

case ${1:-} in
  -q | --query)
    [ ! -e "$state/jetpack4" ] || echo "NVPM WARN: fan mode is not set!"
    if [ -z "$(now)" ]; then
      echo "NVPM WARN: power mode is not set!"
      exit 0
    fi
    echo "NV Power Mode: $(name_of "$(now)")"
    now
    ;;
  -m | --mode) set_mode "$2" ;;
  -p) grep POWER_MODEL "$conf" | sed 's/^ *< *//; s/ *> *$//; s/^POWER_MODEL /POWER_MODEL: /' ;;
  *)
    echo "FAKE nvpmodel (edgesmith): -q, -m ID, -p --verbose" >&2
    exit 255
    ;;
esac
