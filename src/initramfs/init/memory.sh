# The memory plan: what of this machine's RAM goes where, decided from figures
# and said in one line. What cannot fit is refused in words beforehand; the
# alternative is the kernel's killer, later, without any.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Kept free beside a copy of the image: the new system needs that much to log in
# and do something (rescue root with shell and network: 20 MiB, measured).
RESERVE_KB=32768

file_kb() {
	local bytes
	bytes=$(stat -L -c %s "$1") && echo $(((bytes + 1023) / 1024))
}

# Copies the image ($image) to RAM if asked to and if it fits; then the medium is
# let go, so that it can be pulled, and $image names the copy.
copy_to_ram() {
	local need available
	[ "$opt_toram" ] || return 0
	need=$(file_kb "$image")
	available=$(meminfo MemAvailable)
	if [ $((need + RESERVE_KB)) -gt "$available" ]; then
		warn "not copied to RAM: the image needs $need kB and the system $RESERVE_KB kB, $available kB are available; keep the medium in"
		return 0
	fi
	mkdir -p "$LIVE/toram"
	mount -t tmpfs -o "size=$((need + 64))k,mode=0755,nosuid,nodev" toram "$LIVE/toram" || return 0
	if copy_with_progress "$image" "$LIVE/toram/${image##*/}" "$need"; then
		image=$LIVE/toram/${image##*/}
		release_medium
	else
		warn "copying to RAM failed; running from the medium: $(tail -n 1 "$LOG")"
		umount "$LIVE/toram"
	fi
}

copy_with_progress() {
	local copier copied=0 shown=0
	say "copying $(($3 / 1024)) MiB to RAM"
	cp "$1" "$2" 2>>"$LOG" &
	copier=$!
	while kill -0 "$copier" 2>/dev/null; do
		sleep 1
		copied=$(du -k "$2" 2>/dev/null | cut -f1)
		[ "${copied:-0}" -ge $((shown + 10240)) ] && shown=$copied && say "$((copied / 1024)) of $(($3 / 1024)) MiB"
	done
	wait "$copier" && [ "$(file_kb "$2")" = "$3" ]
}

# Everything that refers to the medium goes: its mount, loop device, ISO's disk.
release_medium() {
	local loop
	loop=$(sed -n "s|^\(/dev/loop[0-9]*\) $MEDIUM .*|\1|p" /proc/mounts)
	umount "$MEDIUM" && medium_name="$medium_name, which may be removed now"
	[ "$loop" ] && losetup -d "$loop"
	grep -q " $ISO_DISK " /proc/mounts && umount "$ISO_DISK"
	rmdir "$ISO_DISK" 2>/dev/null
	return 0
}

# Compressed swap in RAM: below 512 MB it makes the difference between a slow
# and a killed program. The algorithm is the kernel's default.
start_zram() {
	local total percent="$opt_zram"
	total=$(meminfo MemTotal)
	[ "$percent" = auto ] && { [ "$total" -lt 524288 ] && percent=50 || percent=0; }
	zram_kb=$((total * percent / 100))
	if [ "$zram_kb" -gt 0 ] && load zram && [ -w /sys/block/zram0/disksize ]; then
		echo "${zram_kb}K" >/sys/block/zram0/disksize &&
			mkswap /dev/zram0 >/dev/null 2>>"$LOG" && swapon /dev/zram0 2>>"$LOG" && return
	fi
	zram_kb=0
}

say_plan() {
	local place="image on the medium"
	case $image in "$LIVE/toram"/*) place="image in RAM ($(($(file_kb "$image") / 1024)) MiB)" ;; esac
	say "memory: $(($(meminfo MemTotal) / 1024)) MiB, $(($(meminfo MemAvailable) / 1024)) available; $place, changes up to $opt_rw_size of RAM, compressed swap $((zram_kb / 1024)) MiB"
}
