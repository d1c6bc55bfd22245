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
		found=$(find_tagged "LABEL=$1") && [ -b "$found" ] && return 0
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
		case $type in squashfs | erofs) image=$device ;; esac
		if [ ! "$image" ] && mount_readonly "$device" "$type" "$TRIAL"; then
			program=$(resolve_in "$TRIAL" "$opt_init") && [ -x "$program" ] && image=$device
			umount "$TRIAL"
		fi
		if [ "$image" ]; then
			image_type=$type
			image_bytes=$(offered_bytes "$image" "$type" /etc/liveiso/image /etc/liveiso/verity)
			return 0
		fi
		log "offered: $device: $type $verdict"
	done <"$LIVE/offered"
	return 1
}

# Bytes on device $1 that belong to its $2; $3 is what the initramfs knows of this
# build's image and $4 of its hash tree, which lies behind the image. The device is
# larger: a container, a volume, a network block device are cut in blocks.
offered_bytes() {
	local bytes
	if [ -f "$4" ] && read -r _ bytes <"$3"; then
		echo "$bytes"
		return
	fi
	# Offsets: bytes_used of squashfs 40; erofs, from 1024: blkszbits 12, blocks 36.
	case $2 in
	squashfs) bytes=$(number_at "$1" 40 8) ;;
	erofs) bytes=$(($(number_at "$1" 1060 4) << $(number_at "$1" 1036 1))) ;;
	*) bytes=$(blockdev --getsize64 "$1") ;;
	esac
	echo $(((bytes + 4095) / 4096 * 4096))
}

# Number of $3 bytes at $2 in $1, little-endian.
number_at() {
	local byte value=0 scale=1
	for byte in $(dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | hexdump -v -e '/1 "%u "'); do
		value=$((value + byte * scale)) scale=$((scale * 256))
	done
	echo "$value"
}

# verify: an image must be this build's. For a root of someone's own making there
# is nothing to compare it with.
check_offered() {
	case $image_type in
	squashfs | erofs)
		part verify
		until verify_image; do
			trouble "$image $verdict"
		done
		;;
	*) warn "verify: $image is a root of its own ($image_type), of which this build has no digests: used as it is" ;;
	esac
}

# Takes apart what hooks put together: device $1, and then what it was made of.
# Disks and sticks, and mappings of others (Ventoy's), stay as they are.
release_device() {
	local path parts name uuid=''
	path=$(block_path "$1") || return 0
	parts=$(ls "$path/slaves" 2>/dev/null)
	read -r uuid 2>/dev/null <"$path/dm/uuid"
	case ${path##*/}/$uuid in
	*/CRYPT-*) cryptsetup close "$(cat "$path/dm/name")" ;;
	*/LVM-*) lvm vgchange --sysinit -a n ;;
	nbd*) nbd-client -d "$1" ;;
	*) return 0 ;;
	esac >>"$LOG" 2>&1 || {
		warn "$1 could not be released: $(tail -n 1 "$LOG")"
		return 1
	}
	say "$1 is released"
	for name in $parts; do
		release_device "/dev/$name"
	done
}

# Where the kernel describes device $1, /dev/mapper/NAME included.
block_path() {
	local path
	case $1 in
	/dev/mapper/*)
		for path in /sys/class/block/dm-*; do
			[ "$(cat "$path/dm/name" 2>/dev/null)" = "${1##*/}" ] && echo "$path" && return
		done
		;;
	/dev/*) [ -e "/sys/class/block/${1#/dev/}" ] && echo "/sys/class/block/${1#/dev/}" && return ;;
	esac
	return 1
}
