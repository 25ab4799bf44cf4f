#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# /init of the guests that scripts/kernel-matrix boots. ttyS0 is the kernel's
# console, ttyS1 carries the command's output and two marker lines, so that a
# kernel message never lands in the middle of a result.
#
#   /matrix/command   what to run, by bash
#   /matrix/modules   modules to load first
#   /matrix/links     lines "TARGET LINK": links to make, also below /tmp and /run

export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /var /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
ln -s /run /var/run
hostname matrix
ip link set lo up
# shellcheck disable=SC3045 # busybox has it
ulimit -n 65536

if [ -e /matrix/links ]; then
	while read -r target link; do
		mkdir -p "${link%/*}"
		ln -s "$target" "$link"
	done </matrix/links
fi

# shellcheck disable=SC2046 # one word per module
modprobe -a $(cat /matrix/modules)

# Through a pipe, since programs colour and buffer by whether they face a terminal.
stty -F /dev/ttyS1 raw
mkfifo /run/output
cat /run/output >/dev/ttyS1 &
exec </dev/null >/run/output 2>&1
cd /root || exit 1
echo "@@ matrix: command starts"
# bash: busybox's own shell would take its applets for ip, tc and the like.
setsid bash /matrix/command
echo "@@ matrix: command ended $?"
# The host ends the guest when it has read that line.
sleep 10
poweroff -f
