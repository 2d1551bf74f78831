#!/bin/sh
# FAKE jetson_clocks: stores, locks and restores the clocks of the tree it lies in. No Jetson is touched.
top=$(cd "$(dirname "$0")/../.." && pwd)
state=$top/var/lib/fake_jetson
uid=${FAKE_JETSON_UID:-$(id -u)}
echo "jetson_clocks $*" >>"$state/calls"

files() {
  for file in "$top"/sys/devices/system/cpu/cpufreq/policy*/scaling_m??_freq \
    "$top"/sys/devices/system/cpu/cpufreq/policy*/scaling_governor \
    "$top"/sys/class/devfreq/*/m??_freq; do
    [ ! -e "$file" ] || echo "$file"
  done
}

if [ "$uid" != 0 ]; then
  echo "Error: Run this script($0) as a root user"
  exit 1
fi

case ${1:-} in
  --show)
    echo "SOC family:FAKE  Machine:FAKE Jetson of edgesmith"
    files | while read -r file; do echo "${file#"$top"} $(cat "$file")"; done
    ;;
  --store)
    conf=${2:-$state/clocks.conf}
    if [ -e "$conf" ]; then
      echo "File $conf already exists. Can I overwrite it? Y/N:"
      read -r answer
      case $answer in
        y | Y) rm -f "$conf" ;;
        *)
          echo "Error: file $conf already exists!"
          exit 1
          ;;
      esac
    fi
    files | while read -r file; do echo "${file#"$top"}:$(cat "$file")"; done >"$conf"
    ;;
  --restore)
    conf=${2:-$state/clocks.conf}
    if [ ! -e "$conf" ]; then
      echo "Error: $conf file not found !"
      exit 1
    fi
    # Like the real one, it ends well whether or not every value went in.
    while IFS=: read -r file value; do echo "$value" >"$top$file"; done <"$conf"
    ;;
  "")
    sleep "$(cat "$state/jetson_clocks.delay_s" 2>/dev/null || echo 0)"
    for folder in "$top"/sys/devices/system/cpu/cpufreq/policy*; do
      [ ! -e "$folder/scaling_max_freq" ] || cat "$folder/scaling_max_freq" >"$folder/scaling_min_freq"
    done
    for folder in "$top"/sys/class/devfreq/*; do
      # Some boards leave a clock of the GPU loose.
      [ -e "$state/gpu_stays_loose" ] || [ ! -e "$folder/max_freq" ] || cat "$folder/max_freq" >"$folder/min_freq"
    done
    ;;
  *)
    echo "Unknown option: $1"
    exit 1
    ;;
esac
