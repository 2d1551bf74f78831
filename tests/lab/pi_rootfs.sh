#!/usr/bin/env bash
# usage: pi_rootfs.sh            prints the folder of a Raspberry-Pi-4-like arm64 userland, built first where it is not there
#
# Root. Needs mmdebstrap, and $PYTHON (default python3) with pip; for speed of the minor version that the board has, 3.11.
# No arm64 program is run: Debian packages are unpacked, the few files that their maintainer scripts would have made are
# written by hand, wheels are laid in by this machine's pip. So it takes half a minute where debootstrap takes six.
# Kept under $XDG_CACHE_HOME/edgesmith, named after this script's own content: a change builds a new one.
set -euo pipefail

suite=bookworm
board_python=3.11
wheels=(ai-edge-litert==2.3.0 onnxruntime==1.31.1)
python=${PYTHON:-python3}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgesmith
final=$cache/rootfs-pi4-$(sha256sum "$0" | cut -c1-12)
mkdir -p "$cache"

# Two test runs that both find none build one.
exec 9>"$cache/rootfs.lock"
flock 9
if [ -d "$final" ]; then
  echo "$final"
  exit
fi

root=$(mktemp -d "$cache/.rootfs.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

unpack() {
  # libstdc++6 and libgomp1: the wheels need them, and a bare Raspberry Pi OS has them.
  local packages=base-files,base-passwd,libc-bin,bash,dash,coreutils,util-linux,grep,sed,tar,gzip,findutils,mawk,hostname
  packages+=,procps,python3,libstdc++6,libgomp1
  mmdebstrap --quiet --architectures=arm64 --variant=extract --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --customize-hook='cd "$1" && rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/info var/cache/apt/*' \
    "$suite" "$root" >&2
}

# What maintainer scripts would have done.
configure() {
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  echo 'pi:x:1000:1000:,,,:/home/pi:/bin/bash' >> "$root/etc/passwd"
  echo 'pi:x:1000:' >> "$root/etc/group"
  # The sshd in front of the board drops its privileges to this user.
  echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >> "$root/etc/passwd"
  # '*' and not '!': without PAM, sshd takes '!' for a locked account and refuses even a key.
  awk -F: '{print $1 ":*:19700:0:99999:7:::"}' "$root/etc/passwd" > "$root/etc/shadow"
  chmod 640 "$root/etc/shadow"
  install -d -m 755 -o 1000 -g 1000 "$root/home/pi"
  [ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
  echo raspberrypi > "$root/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 raspberrypi\n' > "$root/etc/hosts"
}

# What a probe reads. /sys is a plain folder here; /proc/cpuinfo is bound over the real one when the board starts.
identify() {
  local tree=$root/sys/firmware/devicetree/base zone=$root/sys/class/thermal/thermal_zone0 cpu
  mkdir -p "$tree" "$zone" "$root/usr/share/edgesmith-board"
  printf 'Raspberry Pi 4 Model B Rev 1.4\0' > "$tree/model"
  printf 'raspberrypi,4-model-b\0brcm,bcm2711\0' > "$tree/compatible"
  printf '10000000abcdef01\0' > "$tree/serial-number"
  echo cpu-thermal > "$zone/type"
  echo 48686 > "$zone/temp"
  for cpu in 0 1 2 3; do
    local clock=$root/sys/devices/system/cpu/cpu$cpu/cpufreq
    mkdir -p "$clock"
    echo ondemand > "$clock/scaling_governor"
    echo 600000 > "$clock/cpuinfo_min_freq"
    echo 1800000 | tee "$clock/scaling_cur_freq" > "$clock/cpuinfo_max_freq"
    # A Cortex-A72 as the BCM2711 has it: no asimddp (dot product), no aes. To be kept in step with QEMU_CPU.
    printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n' "$cpu"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
  done > "$root/usr/share/edgesmith-board/cpuinfo"
  {
    printf 'Hardware\t: BCM2835\nRevision\t: c03114\nSerial\t\t: 10000000abcdef01\n'
    printf 'Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n'
  } >> "$root/usr/share/edgesmith-board/cpuinfo"
  for cpu in online possible present; do echo 0-3 > "$root/sys/devices/system/cpu/$cpu"; done
  cat > "$root/usr/bin/vcgencmd" << 'SCRIPT'
#!/bin/sh
case "$1" in
  get_throttled) echo "throttled=0x0" ;;
  measure_temp) echo "temp=48.7'C" ;;
  measure_clock) echo "frequency(48)=1800457088" ;;
  *) echo 'error=1 error_msg="Command not registered"' ;;
esac
SCRIPT
  chmod 755 "$root/usr/bin/vcgencmd"
}

lay_in_wheels() {
  # Every manylinux level by name: pip does not go down from a higher one.
  local levels=(--platform manylinux2014_aarch64) level
  for level in 17 24 27 28 31 34 35 36; do levels+=(--platform "manylinux_2_${level}_aarch64"); done
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile \
    --only-binary=:all: --python-version "$board_python" --implementation cp "${levels[@]}" \
    --target "$root/usr/local/lib/python$board_python/dist-packages" "${wheels[@]}" >&2
  # Without .pyc files every emulated start compiles numpy again: 3.1 s instead of 1.0 s.
  if "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$board_python')"; then
    # Debian's own library has files that are meant not to compile.
    (cd "$root" && "$python" -m compileall -qq -j2 "usr/lib/python$board_python" "usr/local/lib/python$board_python") || true
  else
    echo "$python is not $board_python: no .pyc files, emulated starts will be slow" >&2
  fi
}

unpack
configure
identify
lay_in_wheels
mv "$root" "$final"
trap - EXIT

# Earlier ones go, unless a board of another test run stands on them.
for old in "$cache"/rootfs-pi4-*; do
  [ "$old" = "$final" ] || grep -qs "lowerdir=$old" /proc/[0-9]*/mountinfo || rm -rf "$old"
done
echo "$final"
