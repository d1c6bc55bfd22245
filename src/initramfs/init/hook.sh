# What a profile's hook may use, besides the parts of /init that are there
# anyway (say, warn, log, load, coldplug, filesystem_type, mount_readonly).
#
#   offer DEVICE            the root, or a medium of this build, is on it
#   fail WORDS              ends the hook: a menu says why and lets it run again
#   value_of NAME           NAME=value of the kernel command line
#   find_labelled LABEL S   waits S seconds for that file system: $found
#   ask_secret WORDS        asks on every console, unseen: $secret
#   activate_lvm            all volume groups that are complete
#   part nbd; attach_nbd SERVER[:PORT][/EXPORT]        where nbd-client is: $found
#   part luks; open_luks DEVICE NAME [LABEL:/FILE]     where cryptsetup is: $found
#
# A hook is sourced in a child of /init: what it mounts and attaches stays, its
# variables do not. It may run twice: what is done already must do no harm.
# shellcheck shell=sh disable=SC3043,SC3045,SC2034,SC2154

run_hook() {
	echo "it failed without a word" >"$LIVE/verdict"
	# shellcheck source=/dev/null
	. "$1"
}

fail() {
	echo "$*" >"$LIVE/verdict"
	exit 1
}

offer() {
	grep -qsxF "$1" "$LIVE/offered" || echo "$1" >>"$LIVE/offered"
}

value_of() {
	split_words "$(cat /proc/cmdline)" | sed -n "s|^$1=||p" | tail -n 1
}

find_labelled() {
	local end now announced=-5
	end=$(($(uptime_seconds) + $2))
	while true; do
		while coldplug; do true; done
		found=$(findfs "LABEL=$1" 2>/dev/null) && [ -b "$found" ] && return 0
		now=$(uptime_seconds)
		[ "$now" -ge "$end" ] && return 1
		[ "$now" -ge $((announced + 5)) ] && announced=$now &&
			say "waiting for a file system labelled $1, $((end - now)) s left"
		sleep 0.3
	done
}

ask_secret() {
	printf '%s ' "$*" >"$LIVE/question"
	part trouble
	open_menus secret
	IFS= read -r secret <&8
	close_menus
}

activate_lvm() {
	load dm-mod
	lvm vgchange --sysinit -a y >>"$LOG" 2>&1 || warn "logical volumes: $(tail -n 1 "$LOG")"
}

# Sets $image to the first offered device that is a root: an image, or a file
# system with $opt_init in it. A medium among them is left to the search.
find_offered() {
	local device type verdict='' program
	while read -r device; do
		type=$(filesystem_type "$device")
		case $type in squashfs | erofs) image=$device && return 0 ;; esac
		if mount_readonly "$device" "$type" "$TRIAL"; then
			program=$(resolve_in "$TRIAL" "$opt_init") && [ -x "$program" ] && image=$device
			umount "$TRIAL"
			[ "$image" ] && return 0
		fi
		log "offered: $device: $type $verdict"
	done <"$LIVE/offered"
	return 1
}
