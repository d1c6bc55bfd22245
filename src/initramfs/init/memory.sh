# The memory plan: what of this machine's RAM goes where, decided from figures
# and said in one line. What cannot fit is refused in words beforehand; the
# alternative is the kernel's killer, later, without any.
#
# The image is copied to RAM when `toram` asks for it and a reserve stays free;
# unasked only when it clearly fits: a quarter of what is available, 512 MiB
# left, from a medium that is no disc and not on USB 1.1, where copying takes
# longer than it is worth. `toram=n` forbids it.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Kept free beside a copy of the image: the new system needs that much to log in
# and do something (rescue root with shell and network: 20 MiB, measured).
RESERVE_KB=32768
AUTO_LEFT_KB=524288

file_kb() {
	local bytes
	bytes=$(stat -L -c %s "$1") && echo $(((bytes + 1023) / 1024))
}

mib() {
	echo $((($1 + 512) / 1024))
}

# True when the image ($1 kB) is to be copied, $2 kB being available.
should_copy() {
	case $opt_toram in
	y)
		[ $(($1 + RESERVE_KB)) -le "$2" ] && return 0
		warn "not copied to RAM: the image needs $1 kB and the system $RESERVE_KB kB, $2 kB are available; keep the medium in"
		return 1
		;;
	auto) [ $(($1 * 4)) -le "$2" ] && [ $(($1 + AUTO_LEFT_KB)) -le "$2" ] && [ ! "$opt_persistence" ] && medium_is_quick ;;
	*) return 1 ;;
	esac
}

# Neither a disc nor a USB 1.1 device (12 Mbit/s or less).
medium_is_quick() {
	local path speed=''
	case $medium_device in '' | /dev/sr*) return 1 ;; esac
	path=$(readlink -f "/sys/class/block/${medium_device##*/}")
	while [ "$path" ]; do
		case $path in *:*) ;; *) read -r speed 2>/dev/null <"$path/speed" && break ;; esac
		path=${path%/*}
	done
	case $speed in 1.5 | 12) return 1 ;; esac
}

# Copies the image ($image) to RAM if that is the plan; then the medium is let
# go, so that it can be pulled, and $image names the copy.
copy_to_ram() {
	# shellcheck disable=SC2153 # IMAGE is the builder's word
	local need source="$image" copy="$LIVE/toram/${IMAGE##*/}"
	# Of a device only what the image takes is copied.
	if [ "$image_bytes" ]; then need=$(((image_bytes + 1023) / 1024)); else need=$(file_kb "$image"); fi
	should_copy "$need" "$(meminfo MemAvailable)" || return 0
	mkdir -p "$LIVE/toram"
	mount -t tmpfs -o "size=$((need + 64))k,mode=0755,nosuid,nodev" toram "$LIVE/toram" || return 0
	if copy_with_progress "$image" "$copy" "$need"; then
		image=$copy
		if [ "$image_bytes" ]; then release_device "$source"; else release_medium; fi
	else
		warn "copying to RAM failed; running from the medium: $(tail -n 1 "$LOG")"
		umount "$LIVE/toram"
	fi
}

copy_with_progress() {
	local copier copied=0 shown=0
	say "copying $(mib "$3") MiB to RAM"
	# shellcheck disable=SC2086 # two words, or none
	dd if="$1" of="$2" bs=64k status=none ${image_bytes:+iflag=count_bytes count=$image_bytes} 2>>"$LOG" &
	copier=$!
	while kill -0 "$copier" 2>/dev/null; do
		sleep 1
		copied=$(du -k "$2" 2>/dev/null | cut -f1)
		[ "${copied:-0}" -ge $((shown + 10240)) ] && shown=$copied && say "$(mib "$copied") of $(mib "$3") MiB"
	done
	wait "$copier" && [ "$(file_kb "$2")" = "$3" ]
}

# Everything that refers to the medium goes: its mount, loop device, ISO's disk.
release_medium() {
	local loop
	loop=$(sed -n "s|^\(/dev/loop[0-9]*\) $MEDIUM .*|\1|p" /proc/mounts)
	umount "$MEDIUM" && say "$medium_name may be removed now"
	[ "$loop" ] && losetup -d "$loop"
	grep -q " $ISO_DISK " /proc/mounts && umount "$ISO_DISK"
	rmdir "$ISO_DISK" 2>/dev/null
	case $medium_device in /dev/nbd* | /dev/dm-* | /dev/mapper/*) [ -f "$LIBRARY/hook.sh" ] && part hook && release_device "$medium_device" ;; esac
	medium_device=''
	return 0
}

# Compressed swap in RAM: below 512 MB it makes the difference between a slow
# and a killed program. The algorithm is the kernel's default. A quarter of RAM:
# its table costs 8 bytes a page whether used or not.
start_zram() {
	local total percent="$opt_zram"
	total=$(meminfo MemTotal)
	[ "$percent" = auto ] && { [ "$total" -lt 524288 ] && percent=25 || percent=0; }
	zram_kb=$((total * percent / 100))
	if [ "$zram_kb" -gt 0 ] && load zram && [ -w /sys/block/zram0/disksize ]; then
		echo "${zram_kb}K" >/sys/block/zram0/disksize &&
			mkswap /dev/zram0 >/dev/null 2>>"$LOG" && swapon /dev/zram0 2>>"$LOG" && return
	fi
	zram_kb=0
}

# Size of the tmpfs for changes, as mount takes it: half of RAM, but at most two
# thirds of what is left of it now.
changes_size() {
	local half left
	[ "$opt_rw_size" = auto ] || { echo "$opt_rw_size" && return; }
	half=$(($(meminfo MemTotal) / 2))
	left=$(($(meminfo MemAvailable) * 2 / 3))
	[ "$left" -lt "$half" ] && half=$left
	echo "${half}k"
}

say_plan() {
	local place="image on the medium" changes
	case $image in /dev/*) place="image on $image" ;; "$MEDIUM"/*) ;; *) place="image in RAM ($(mib "$(file_kb "$image")") MiB)" ;; esac
	changes="changes in RAM up to $(mib "$(df -k "$LIVE/rw" | awk 'END { print $(NF - 4) }')") MiB"
	[ "$persistence" = rw ] && changes="changes kept on $persistence_name"
	[ "$persistence" = ro ] && changes="$changes over those on $persistence_name"
	say "memory: $(mib "$(meminfo MemTotal)") MiB, $(mib "$(meminfo MemAvailable)") available; $place, $changes, compressed swap $(mib "$zram_kb") MiB"
}
