# When a stage fails: what was looked for, what was seen, and a menu on every
# console at once, since only the person knows which of them they sit at.
# shellcheck shell=sh disable=SC3043,SC3045,SC2034,SC2154

ANSWERS=$LIVE/answers

# Says $1, reports, and returns when someone has chosen to try again. While the
# menu stands $2 is tried every two seconds; returns 0 when it succeeds, else 1.
trouble() {
	local answer='' outcome=1
	warn "$1"
	report >"$LIVE/report"
	cat "$LIVE/report" >>"$LOG"
	show "$(cat "$LIVE/report")"
	save_log
	open_menus menu
	while [ ! "$answer" ]; do
		read -r -t 2 answer <&8 || {
			[ "$2" ] && ! ls "$LIVE"/shell.* >/dev/null 2>&1 && "$2" && answer=found && outcome=0
		}
	done
	close_menus
	case $answer in
	device\ *) opt_device=/dev/${answer#device } opt_any_build=$opt_device ;;
	esac
	rm -f "$SEEN"/* 2>/dev/null
	return $outcome
}

# break=STAGE: a shell on every console; the first one left lets the boot go on.
pause_at() {
	local answer
	[ "$opt_break" = "$1" ] || return 0
	show "break=$1: a shell; leave it with exit, and the boot goes on"
	open_menus shell
	read -r answer <&8
	close_menus
}

# start-stop-daemon rather than &: what ash starts in the background ignores
# Ctrl-C for good, and so would every program of the rescue shell.
open_menus() {
	local console
	rm -f "$ANSWERS" "$LIVE"/shell.*
	mkfifo "$ANSWERS"
	exec 8<>"$ANSWERS"
	for console in $CONSOLES; do
		start-stop-daemon -S -b -m -p "$LIVE/menu.${console##*/}" -x /bin/busybox -- \
			setsid sh "$LIBRARY/menu.sh" "$1" "$console" "$LIVE"
	done
}

close_menus() {
	local pid_file
	for pid_file in "$LIVE"/menu.*; do
		kill -HUP "$(cat "$pid_file")" 2>/dev/null
		rm -f "$pid_file"
	done
	rm -f "$LIVE"/shell.*
	exec 8<&-
}

# The log goes onto the medium only when that is ours, found, and a copy on a
# file system that can be written; what fits a photograph or a telephone else.
save_log() {
	if log_fits_medium /proc/mounts && mount -o remount,rw "$MEDIUM" 2>/dev/null; then
		{ cat "$LOG" && dmesg; } >"$MEDIUM/$INSTALL_DIR/log.txt" && show "The log is on the medium: $INSTALL_DIR/log.txt"
		mount -o remount,ro "$MEDIUM"
	fi
	show "For a question about this: $(short_code)"
}

# Is a copy of the medium mounted, in the table $1, that can be written? Not the disk
# an ISO file lies on, nor a journal that waits to be replayed: that would undo it.
log_fits_medium() {
	local device place type rest
	while read -r device place type rest; do
		[ "$place" = "$MEDIUM" ] || continue
		case $type in
		vfat | exfat) return 0 ;;
		ext4) part persist && ! was_left_open "$device" && return 0 ;;
		esac
	done <"$1"
	return 1
}

# Build, RAM, uptime, then each device and what it holds: enough to tell most cases.
short_code() {
	echo "${BUILD_ID%????????????????}-$(($(meminfo MemTotal) / 1024))M-$(uptime_seconds)s-$(seen_in_short | tr -d ' ' | tr ',' '+')"
}

report() {
	local lines
	echo "---- looked for"
	echo "  /$MARKER${opt_iso:+, in the file $opt_iso}${opt_device:+, first on $opt_device}"
	echo "  kernel $(uname -r), $(($(meminfo MemTotal) / 1024)) MiB RAM, $(($(meminfo MemAvailable) / 1024)) available"
	echo "  command line: $(cat /proc/cmdline)"
	echo "---- block devices"
	lines=$(seen_in_full)
	echo "${lines:-  none: the controller has no driver here, or the cable is out}"
	lines=$(driverless_controllers)
	[ "$lines" ] && printf '%s\n' "---- controllers without a driver" "$lines"
	lines=$(kernel_errors)
	[ "$lines" ] && printf '%s\n' "---- the kernel says" "$lines"
}

# The last of what the kernel said at level error and warning since /init ran.
kernel_errors() {
	dmesg -r | sed '1,/Run .init as init process/d' | grep '^<[0-4]>' | tail -n 6 | cut -c 4-120 | sed 's/^/  /'
}
