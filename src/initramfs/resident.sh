#!/bin/sh
# /init of the layout `resident`: this initramfs is the whole system, so there
# is no medium to find and no other root to hand over to. Gives the root's init
# what every other layout gives it: /proc, /sys, /dev, /run, and the build's id
# under /run/initramfs/live. Uses the root's own shell and mount.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022

attach() {
	mount "$@" 2>/dev/null || busybox mount "$@"
}

attach -t proc -o nosuid,noexec,nodev proc /proc
attach -t sysfs -o nosuid,noexec,nodev sysfs /sys
attach -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev
attach -t tmpfs -o nosuid,nodev,mode=0755 run /run
exec </dev/console >/dev/console 2>&1

# The archive's last member is missing: the kernel ran out of memory while
# unpacking, said so in one line and went on. No other file can be trusted now.
if [ ! -e /.complete ]; then
	read -r _ ram _ </proc/meminfo
	echo "!! liveiso: this machine has too little memory: the system did not fit into ${ram:-?} kB."
	while true; do sleep 3600; done
fi

mkdir -p /run/initramfs/live
cp /etc/liveiso/id /run/initramfs/live/id
rm -f /.complete
program=/sbin/init
read -r words </proc/cmdline
for word in $words; do
	case $word in init=/*) program=${word#init=} ;; esac
done
# PID 1 must not die for a word of the command line. Said by the kernel, on all consoles.
[ -x "$program" ] || {
	echo "<4>liveiso: $program is not a program of this system: starting /sbin/init" >/dev/kmsg
	program=/sbin/init
}
echo "liveiso: resident system, handing over to $program"
exec "$program" "$@"
