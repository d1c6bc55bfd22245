# Words to the person: every active console gets them, the log keeps them.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

LIVE=/run/initramfs/live
MEDIUM=$LIVE/medium
NEWROOT=/newroot
LOG=$LIVE/log
CONSOLES=''

# Device nodes of the active consoles; the screen's is the terminal behind it,
# because only that one can control a shell.
consoles() {
	local names='' name
	read -r names </sys/class/tty/console/active
	for name in $names; do
		[ "$name" = tty0 ] && name=tty1
		[ -c "/dev/$name" ] && echo "/dev/$name"
	done
}

open_console() {
	mkdir -p "$LIVE"
	[ -c /dev/console ] && (true </dev/console >/dev/console) 2>/dev/null &&
		exec </dev/console >/dev/console 2>&1
	CONSOLES=$(consoles)
	CONSOLES=${CONSOLES:-/dev/console}
	echo on >/proc/sys/kernel/printk_devkmsg
	BUILD_ID=''
	read -r BUILD_ID </etc/liveiso/id
	read_medium_description </etc/liveiso/medium
}

# INSTALL_DIR, IMAGE and VOLUME, written by the builder.
read_medium_description() {
	local key value
	INSTALL_DIR=liveiso IMAGE=i386/airootfs.sfs VOLUME=''
	while IFS='=' read -r key value; do
		case $key in
		INSTALL_DIR) INSTALL_DIR=$value ;;
		IMAGE) IMAGE=$value ;;
		VOLUME) VOLUME=$value ;;
		esac
	done
	MARKER=$INSTALL_DIR/$BUILD_ID.id
}

log() {
	printf '%s\n' "$*" >>"$LOG"
	printf '<6>liveiso: %s\n' "$*" >/dev/kmsg
}

# One line on every console, whatever it costs: a console may be dead.
show() {
	local console
	for console in $CONSOLES; do
		printf '%s\n' "$*" >"$console"
	done 2>/dev/null
}

say() {
	log "$*"
	[ "$opt_quiet" ] || show ":: $*"
}

warn() {
	log "warning: $*"
	show "!! $*"
}

uptime_seconds() {
	local now rest
	read -r now rest </proc/uptime
	echo "${now%%.*}"
}

# One value of /proc/meminfo in kB.
meminfo() {
	sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo
}
