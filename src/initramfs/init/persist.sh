# persistence: changes are kept on the medium instead of in RAM.
#
# Where: an ext2, 3 or 4 file system with the label liveiso-changes, on a
# partition of the very disk the medium is on, or in the file
# /INSTALL_DIR/changes.ext4 of a medium that was copied to FAT, exFAT or ext4.
# No other disk is looked at. /upper in there is the overlay's upper layer.
#
# Before it is used its superblock says whether it was closed cleanly; if not,
# e2fsck repairs it, where the initramfs has one. Without, changes stay in RAM
# for this time and a message says why: persistence=replay lets the kernel
# replay the journal. persistence=ro never writes.
#
# A LUKS 2 container with that label is unlocked first, where the initramfs has
# cryptsetup (the profile's `programs`): see luks.sh.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

CHANGES_LABEL=liveiso-changes
# Less room than this and a live system cannot even log in properly.
LEAST_FREE_KB=4096

# Sets $persistence to rw (mounted on $LIVE/rw), ro (on $LIVE/changes) or nothing.
start_persistence() {
	local reason=''
	persistence='' persistence_name=''
	# Without a device of the medium every disk would be looked at.
	if [ ! "$medium_device" ]; then
		reason="the medium was let go, or is an ISO file on someone's disk"
	elif ! find_changes; then
		reason="$verdict"
	fi
	[ "$reason" ] || if [ "$opt_persistence" = ro ]; then
		mount_changes_ro || reason="$verdict"
	elif ! mount_changes_rw; then
		reason="$verdict"
		case $verdict in *full | *write-protected) mount_changes_ro && reason="$reason; what is on it can be seen" ;; esac
	fi
	[ "$reason" ] && warn "persistence: $reason; changes stay in RAM and are lost at power-off"
	[ "$persistence" ] && compare_build
}

# Device or file with the changes in $changes, its name for people in $persistence_name.
find_changes() {
	local disk path
	verdict="no partition labelled $CHANGES_LABEL and no /$INSTALL_DIR/changes.ext4 on the medium"
	disk=$(readlink -f "/sys/class/block/${medium_device##*/}")
	[ -e "$disk/partition" ] && disk=${disk%/*}
	for path in "$disk"/*/partition; do
		path=${path%/partition}
		changes=/dev/${path##*/} persistence_name=$changes
		if [ "$(luks_label "$changes")" = "$CHANGES_LABEL" ]; then
			unlock_changes
			return
		fi
		read_superblock "$changes" && [ "$changes_label" = "$CHANGES_LABEL" ] && return 0
	done
	changes=$MEDIUM/$INSTALL_DIR/changes.ext4 persistence_name=/$INSTALL_DIR/changes.ext4
	[ -f "$changes" ] && read_superblock "$changes"
}

# The label in a LUKS 2 header: magic and version at 0, label at 24.
luks_label() {
	[ "$(dd if="$1" bs=8 count=1 2>/dev/null | hexdump -v -e '/1 "%02x"')" = 4c554b53babe0002 ] &&
		dd if="$1" bs=8 skip=3 count=6 2>/dev/null | tr -d '\0'
}

# In a child, because what fails in luks.sh ends the shell.
unlock_changes() {
	verdict="$changes is encrypted, and this initramfs has no cryptsetup"
	[ -f "$LIBRARY/luks.sh" ] || return 1
	[ "$opt_persistence" = ro ] && unlock_options=--readonly
	(part hook && part luks && open_luks "$changes" "$CHANGES_LABEL") || {
		verdict=$(cat "$LIVE/verdict")
		return 1
	}
	changes=/dev/mapper/$CHANGES_LABEL
	read_superblock "$changes" && return 0
	verdict="$persistence_name holds no ext file system"
	return 1
}

# Label and state of the ext file system in $1. Offsets from 1024: magic 56,
# state 58 (1 clean, 2 errors), incompatible features 96 (4: journal to be
# replayed), label 120.
read_superblock() {
	local block
	block=$(dd if="$1" bs=1024 skip=1 count=1 2>/dev/null | hexdump -v -e '/1 "%02x"')
	[ "$(echo "$block" | cut -c 113-116)" = 53ef ] || return 1
	changes_label=$(dd if="$1" bs=8 skip=143 count=2 2>/dev/null | tr -d '\0')
	changes_state=clean
	case $(echo "$block" | cut -c 194) in 4 | 5 | 6 | 7 | c | d | e | f) changes_state=open ;; esac
	[ "$(echo "$block" | cut -c 117-118)" = 01 ] || changes_state=errors
}

# An ext file system that was not closed cleanly: it is mounted without its journal
# here, and what is written past one that waits would be undone, or worse, later.
was_left_open() {
	(read_superblock "$1" && [ "$changes_state" != clean ])
}

mount_changes_rw() {
	local device="$changes"
	if [ ! -b "$changes" ]; then
		verdict="the medium's own file system was not closed cleanly: run e2fsck on it"
		was_left_open "$medium_device" && return 1
		verdict="the medium is write-protected"
		mount -o remount,rw "$MEDIUM" 2>>"$LOG" || return 1
		attach_changes || return 1
		device=$LOOP
	elif [ "$(blockdev --getro "$changes")" = 1 ]; then
		verdict="$changes is write-protected"
		return 1
	fi
	check_changes "$device" || return 1
	load ext4 crc32c_generic
	mkdir -p "$LIVE/rw"
	verdict="$persistence_name is full"
	has_room "$device" || return 1
	mount -t ext4 -o noatime "$device" "$LIVE/rw" 2>>"$LOG" || {
		verdict="mounting $persistence_name failed: $(dmesg | tail -n 1 | cut -c 1-100)"
		return 1
	}
	persistence=rw
}

# Looks without writing: what is full stays as it is.
has_room() {
	local free
	guarded_mount "$1" ext4 "$LIVE/rw" || return 0
	free=$(($(stat -f -c '%f * %S' "$LIVE/rw") / 1024))
	umount "$LIVE/rw"
	[ "$free" -ge "$LEAST_FREE_KB" ]
}

attach_changes() {
	load_loop
	LOOP=$(losetup -f) && [ "$LOOP" ] && losetup "$LOOP" "$changes" 2>>"$LOG"
}

# True when the file system may be written to; $verdict says why not.
check_changes() {
	[ "$changes_state" = clean ] && return 0
	if [ -x /sbin/e2fsck ]; then
		say "persistence: checking $persistence_name, which was not closed cleanly"
		/sbin/e2fsck -p "$1" >>"$LOG" 2>&1
		[ $? -le 1 ] && return 0
		verdict="e2fsck -p could not repair $persistence_name"
		return 1
	fi
	[ "$changes_state" = open ] && [ "$opt_persistence" = replay ] && return 0
	verdict="$persistence_name was not closed cleanly ($changes_state): run e2fsck on it"
	[ "$changes_state" = open ] && verdict="$verdict, or boot with persistence=replay"
	return 1
}

mount_changes_ro() {
	local device="$changes"
	[ -b "$changes" ] || { attach_loop "$changes" && device=$LOOP; }
	load ext4 crc32c_generic
	mkdir -p "$LIVE/changes"
	guarded_mount "$device" ext4 "$LIVE/changes" || {
		verdict="mounting $persistence_name read-only failed"
		return 1
	}
	[ -d "$LIVE/changes/upper" ] && persistence=ro && return 0
	umount "$LIVE/changes"
	verdict="$persistence_name has no changes yet"
	return 1
}

# Changes over another build's files may not fit them: that is the person's to know.
compare_build() {
	local dir="$LIVE/rw" other=''
	[ "$persistence" = ro ] && dir=$LIVE/changes
	read -r other 2>/dev/null <"$dir/build-id"
	[ "$other" ] && [ "$other" != "$BUILD_ID" ] &&
		warn "persistence: the changes on $persistence_name were made on build $other, this is $BUILD_ID"
	[ "$persistence" = rw ] && echo "$BUILD_ID" >"$dir/build-id"
	return 0
}
