# The search for the medium: the one file system that holds /INSTALL_DIR/ID.id,
# ID being this build's. Never by label: labels are cut, changed and shared.
#
# It may be a disc, a partition, a whole disk, or lie in an ISO file on any of
# those. Every device is judged once; again only when its contents have changed.
# Left out: devices that need more than a mount (LUKS, LVM, RAID, network): hooks.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

SEEN=$LIVE/seen       # one file a device: key, file system, verdict
TRIAL=$LIVE/trial     # where a device is looked at
ISO_DISK=$LIVE/isodev # the disk that holds the ISO file, once found

find_medium() {
	local start now announced=0 legacy=''
	mkdir -p "$SEEN"
	start=$(uptime_seconds)
	say "looking for the medium of build $BUILD_ID"
	while true; do
		while coldplug; do true; done
		look_round && return 0
		now=$(($(uptime_seconds) - start))
		[ "$now" -ge "$opt_timeout" ] && return 1
		[ "$now" -ge $((announced + 5)) ] && announced=$now &&
			say "still looking, $((opt_timeout - now)) s left; seen so far: $(seen_in_short)$(still_coming)"
		[ ! "$legacy" ] && [ "$now" -ge $((opt_timeout / 3)) ] && legacy=1 && load_legacy_ide
		sleep 0.3
	done
}

# One look at every device that is there now.
look_round() {
	local device
	named=" $(named_devices | tr '\n' ' ')"
	for device in $(candidates); do
		probed "$device" && partitions_judged "$device" && judge "$device" && return 0
	done
	return 1
}

# Partitions may answer later than their disk. Once that is mounted whole nobody
# can open them any more, not even for the changes on one of them: so a disk waits
# for its partitions, up to ten seconds for those that cannot be read.
partitions_judged() {
	local name="${1##*/}" path since
	for path in "/sys/class/block/$name/$name"*; do
		[ -e "$path/partition" ] || continue
		[ -e "$SEEN/${path##*/}.verdict" ] && continue
		[ -e "$SEEN/$name.since" ] || uptime_seconds >"$SEEN/$name.since"
		read -r since <"$SEEN/$name.since"
		[ $(($(uptime_seconds) - since)) -ge 10 ] || return 1
	done
	return 0
}

# Device nodes in the order of trying: what the command line or Ventoy names,
# discs and partitions before whole disks, removable before built in.
candidates() {
	local device
	{
		{ named_devices; cat "$LIVE/offered" 2>/dev/null; } | sed 's/^/0 /'
		for device in /sys/class/block/*; do
			rank_device "${device##*/}"
		done
	} | sort | awk '!done[$2]++ { print $2 }'
}

named_devices() {
	local device
	for device in "$(named_device "${LIVE_MEDIA:-$LIVEMEDIA}")" "$(named_device "$opt_device")" "$(named_device "$opt_iso_device")"; do
		[ -b "$device" ] && echo "$device"
	done
}

rank_device() {
	local rank=4 path removable=''
	case $1 in
	loop* | ram* | zram* | fd* | nbd* | md* | dm-* | mtd* | mmcblk*boot* | mmcblk*rpmb) return ;;
	sr*) rank=1 ;;
	*)
		path=$(readlink -f "/sys/class/block/$1")
		[ -e "$path/partition" ] && rank=3 && path=${path%/*}
		read -r removable 2>/dev/null <"$path/removable"
		case $removable$path in 1* | *usb* | *mmc_host*) rank=$((rank - 2)) ;; esac
		;;
	esac
	echo "$rank /dev/$1"
}

# /dev/NAME, UUID=… or LABEL=… as a device node, udev's links too (which write a
# blank as \x20). Without udev a device-mapper name may have none of its own; the
# kernel's always exists.
named_device() {
	local path
	case $1 in
	/dev/mapper/*)
		[ -b "$1" ] && echo "$1" && return
		for path in /sys/class/block/dm-*; do
			[ "$(cat "$path/dm/name" 2>/dev/null)" = "${1##*/}" ] && echo "/dev/${path##*/}"
		done
		;;
	/dev/disk/by-label/*) find_tagged "LABEL=$(printf %b "${1#/dev/disk/by-label/}")" ;;
	/dev/disk/by-uuid/*) find_tagged "UUID=${1##*/}" ;;
	/dev/*) echo "$1" ;;
	UUID=* | LABEL=*) find_tagged "$1" ;;
	esac
}

# findfs reads every disk, and waits for a dying one: it gets two seconds, and what
# it says later is heard later.
find_tagged() {
	local moments=0 answer
	answer=$LIVE/tag.$(printf %s "$1" | md5sum | cut -c 1-16)
	if [ ! -e "$answer.asked" ]; then
		moments=40
		true >"$answer.asked"
		(findfs "$1" >"$answer.new"; mv "$answer.new" "$answer") >/dev/null 2>&1 &
	fi
	while [ ! -e "$answer" ] && [ "$moments" -gt 0 ]; do
		moments=$((moments - 1))
		usleep 50000
	done
	[ -e "$answer" ] && cat "$answer" && rm -f "$answer" "$answer.asked"
}

# Changes whenever the device or the disc in it does.
device_key() {
	local name="${1##*/}" path size='' sequence=''
	path=$(readlink -f "/sys/class/block/$name")
	read -r size 2>/dev/null <"$path/size"
	[ -e "$path/partition" ] && path=${path%/*}
	read -r sequence 2>/dev/null <"$path/diskseq"
	echo "$size/$sequence"
}

# True when the file system of device $1 is known and not yet judged. Reading
# goes on in the background, so that a dying disk holds up nobody but itself.
probed() {
	local record="$SEEN/${1##*/}" key
	key=$(device_key "$1")
	if [ "$(sed -n 1p "$record" 2>/dev/null)" != "$key" ]; then
		rm -f "$record".*
		printf '%s\n' "$key" >"$record"
		start_reading "$1" "$record" "$key"
	fi
	[ -e "$record.type" ] || return 1
	[ -e "$record.verdict" ] || return 0
	asks_again "$1" && rm -f "$record.verdict" && start_reading "$1" "$record" "$key"
	return 1
}

# What comes too late, of a disk that was changed meanwhile, is dropped.
start_reading() {
	local moments=10 new="$2.${3##*/}.reading"
	true >"$new"
	(
		filesystem_type "$1" >"$new"
		if [ "$(sed -n 1p "$2")" = "$3" ]; then mv "$new" "$2.type"; else rm -f "$new"; fi
	) 2>/dev/null &
	# Most answer at once: half a second keeps the order of disks, and is all that a
	# dying one costs. What was named gets two, or the same files might be found elsewhere
	# meanwhile.
	case $named in *" $1 "*) moments=40 ;; esac
	while [ ! -e "$2.type" ] && [ "$moments" -gt 0 ]; do
		moments=$((moments - 1))
		usleep 50000
	done
}

# What had nothing to read may still be spinning up; but one question at a time.
asks_again() {
	local size=0 record="$SEEN/${1##*/}"
	grep -q empty "$record.type" && ! ls "$record".*.reading >/dev/null 2>&1 || return 1
	case $1 in /dev/sr*) return 0 ;; esac
	read -r size 2>/dev/null <"/sys/class/block/${1##*/}/size"
	[ "$size" -gt 0 ]
}

# Mounts device $1 and looks for the marker; on success $MEDIUM is mounted.
judge() {
	local record="$SEEN/${1##*/}" type verdict=''
	judged=$1
	read -r type <"$record.type"
	if mount_readonly "$1" "$type" "$TRIAL"; then
		if is_our_medium "$TRIAL"; then
			mkdir -p "$MEDIUM" && mount -o move "$TRIAL" "$MEDIUM"
			medium_name="$1 ($type)" medium_device=$1
			return 0
		fi
		case $type in
		iso9660 | squashfs) ;;
		*) iso_inside "$1" "$type" && return 0 ;;
		esac
		umount "$TRIAL"
	fi
	echo "$verdict" >"$record.verdict"
	[ "$type" = empty ] || log "$1: $type, $verdict"
	return 1
}

# Is the file system mounted on $1 the medium? $verdict says why not.
is_our_medium() {
	local other
	if [ ! -e "$1/$MARKER" ]; then
		verdict="no liveiso medium"
		for other in "$1/$INSTALL_DIR"/*.id; do
			[ -e "$other" ] || continue
			verdict="another build: ${other##*/}"
			any_build_here && [ -f "$1/$INSTALL_DIR/$IMAGE" ] && return 0
		done
		return 1
	fi
	[ -f "$1/$INSTALL_DIR/$IMAGE" ] && return 0
	verdict="our medium, but $INSTALL_DIR/$IMAGE is missing: copied only in part?"
	return 1
}

# Another build's medium is taken from the device a person chose, or from any when
# the command line says so.
any_build_here() {
	case $judged in
	"$opt_any_build" | "$opt_any_build"[0-9]* | "$opt_any_build"p[0-9]*) [ "$opt_any_build" ] ;;
	*) [ "$opt_any_build" = 1 ] ;;
	esac
}

# An ISO file on the disk mounted on $TRIAL (device $1, file system $2): the one
# that was named, else those in the usual places that carry our volume id.
iso_inside() {
	local file
	if [ "$opt_iso" ]; then
		verdict="no file $opt_iso"
		[ -f "$TRIAL/$opt_iso" ] && use_iso "$TRIAL/$opt_iso" && medium_name="$opt_iso on $1 ($2)"
		return
	fi
	for file in "$TRIAL"/*.[iI][sS][oO] "$TRIAL"/[iI][sS][oO]*/*.[iI][sS][oO] \
		"$TRIAL"/boot/*.[iI][sS][oO] "$TRIAL"/boot/[iI][sS][oO]*/*.[iI][sS][oO]; do
		if [ -f "$file" ] && [ "$VOLUME" ] && [ "$(volume_id "$file")" = "$VOLUME" ] && use_iso "$file"; then
			medium_name="${file#"$TRIAL"} on $1 ($2)"
			return 0
		fi
	done
	return 1
}

# The volume id stands at byte 40 of the primary volume descriptor (ECMA-119 8.4.7).
volume_id() {
	dd if="$1" bs=8 skip=4101 count=4 2>/dev/null | sed 's/ *$//'
}

use_iso() {
	attach_loop "$1" || {
		verdict="${1#"$TRIAL"}: no loop device"
		return 1
	}
	mkdir -p "$MEDIUM" "$ISO_DISK"
	if [ "$(filesystem_type "$LOOP")" = iso9660 ] && kernel_has_filesystem iso9660 &&
		mount -t iso9660 -o ro "$LOOP" "$MEDIUM" 2>>"$LOG"; then
		is_our_medium "$MEDIUM" && mount -o move "$TRIAL" "$ISO_DISK" && return 0
		umount "$MEDIUM"
	else
		verdict="no ISO image, or damaged"
	fi
	losetup -d "$LOOP"
	verdict="${1#"$TRIAL"}: $verdict"
	return 1
}

# All that was seen, one word each: sda1 ntfs3, sr0 empty.
seen_in_short() {
	local record list=''
	for record in "$SEEN"/*.type; do
		[ -e "$record" ] || continue
		list="$list${list:+, }$(basename "$record" .type) $(cat "$record")"
	done
	echo "${list:-no block device}"
}

# What has been seen on a bus and is not a disk yet: slow sticks, card readers.
still_coming() {
	local path name list=''
	for path in /sys/bus/usb/devices/*:*; do
		case $(cat "$path/bInterfaceClass" 2>/dev/null) in 08) ;; *) continue ;; esac
		ls -d "$path"/host*/target*/*/block/* >/dev/null 2>&1 && continue
		read -r name 2>/dev/null <"${path%:*}/product"
		list="$list${list:+, }${name:-USB disk} (${path##*/})"
	done
	for path in "$SEEN"/*; do
		case $path in *.*) continue ;; esac
		[ -e "$path" ] && [ ! -e "$path.type" ] && list="$list${list:+, }${path##*/} (reading)"
	done
	echo "${list:+; waiting for $list}"
}

# The same in full, for the report.
seen_in_full() {
	local device name size type verdict model
	for device in /sys/class/block/*; do
		name=${device##*/}
		[ "$(rank_device "$name")" ] || continue
		read -r size <"$device/size"
		type='still reading' verdict='' model=''
		read -r type 2>/dev/null <"$SEEN/$name.type"
		read -r verdict 2>/dev/null <"$SEEN/$name.verdict"
		read -r model 2>/dev/null <"$device/device/model"
		echo "  $name $((size / 2048)) MiB ${model:+($model) }$type${verdict:+: $verdict}"
	done
}
