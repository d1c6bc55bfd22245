# dm-verity: the image carries a tree of digests behind its data, and the kernel
# compares every block with it as it is read. One flipped bit is an I/O error.
#
# The root hash, to which all of them lead, comes from the boot entry's word
# liveiso.verity=, else from /etc/liveiso/verity, where the builder also wrote
# where the tree is. There is no dmsetup here: requests to the device mapper
# (struct dm_ioctl, linux/dm-ioctl.h) are put together byte by byte and given to
# /bin/ioctl.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

VERITY_NAME=liveiso-verity
VERITY_WORDS=/etc/liveiso/verity

# Opens the image on loop device $1 by its tree: $VERITY_DEVICE is what to mount.
open_verity() {
	local data hash blocks start algorithm salt path
	verdict="the boot entry has a root hash, but this build's image has no hash tree"
	[ -f "$VERITY_WORDS" ] || return 1
	read -r data hash blocks start algorithm root_hash salt <"$VERITY_WORDS"
	same_root_hash "$opt_root_hash" "$root_hash" || return 1
	load dm-mod dm-verity "$algorithm"
	{
		# struct dm_target_spec: first sector, sectors, status, next, type; its words.
		le32 0 0 $((blocks * 8)) 0 0 0
		field 16 verity
		field 512 "1 $1 $1 $data $hash $blocks $start $algorithm $root_hash $salt"
	} >"$LIVE/table"
	if ! { device_mapper 3 0 && device_mapper 9 1 "$LIVE/table" && device_mapper 6 0; }; then
		verdict="the kernel cannot check it against the root hash $root_hash: $(dmesg | tail -n 1 | cut -c 1-100)"
		close_verity
		return 1
	fi
	for path in /sys/class/block/dm-*; do
		[ "$(cat "$path/dm/name" 2>/dev/null)" = "$VERITY_NAME" ] && VERITY_DEVICE=/dev/${path##*/}
	done
}

# The kernel would call an image damaged that has another root hash.
same_root_hash() {
	[ "$1" ] || return 0
	[ "$(printf %s "$1" | tr A-F a-f)" = "$2" ] && return 0
	verdict="the root hash of the boot entry is $1, that of this build $2: the entry was changed, or belongs to another build"
	return 1
}

close_verity() {
	device_mapper 4 0
}

# The program at the end needs the means to let the image go.
keep_means_to_close() {
	mkdir -p "$LIVE/verity"
	cp /bin/ioctl "$LIVE/verity/ioctl"
	device_mapper_request 4 0 >"$LIVE/verity/remove"
	rm -f "$LIVE/table" "$LIVE/request"
}

# Request $1 (3 create, 4 remove, 6 resume, 9 load a table) with flags $2 (1
# read-only), of a table the one target in file $3.
device_mapper() {
	device_mapper_request "$@" >"$LIVE/request" && /bin/ioctl 3<>/dev/mapper/control <"$LIVE/request" 2>>"$LOG"
}

device_mapper_request() {
	le32 $((0xc138fd00 + $1))
	# version 4.0.0, size of all, size of this, targets, open count, flags, event, padding, device
	le32 4 0 0 2048 312 $(($# - 2)) 0 "$2" 0 0 0 0
	field 128 "$VERITY_NAME"
	# UUID and padding
	field 136 ''
	[ $# = 2 ] || cat "$3"
}

# Numbers as 32 bits each, little-endian.
le32() {
	local number
	for number; do
		# shellcheck disable=SC2059 # the format is made of octal digits
		printf "$(printf '\\%03o' $((number & 255)) $((number >> 8 & 255)) $((number >> 16 & 255)) $((number >> 24 & 255)))"
	done
}

# Text $2, filled up with zeros to $1 bytes.
field() {
	printf %s "$2"
	head -c $(($1 - ${#2})) /dev/zero
}
