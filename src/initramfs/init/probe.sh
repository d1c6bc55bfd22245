# What is on a block device, and mounting it without a single write.
#
# The superblock's magic is read before any mount, so no file system is tried
# that is not there. Mounting "ro" is not enough: ext4 still replays its journal
# and cuts off orphans, XFS replays its log, btrfs its tree log. So each gets the
# option that forbids that, and the device is set read-only meanwhile.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# File system on device or image $1, in the kernel's word; for what can be named
# but not mounted that name (`partitioned`: a boot sector only); `empty` when nothing can be read, `unknown` else.
# Offsets: ISO 9660 (ECMA-119 8.1.2) and UDF 32769, ext 1080, btrfs 65600,
# FAT's BIOS parameter block 11 to 21 with 55 AA at 510. Only the first 4608 bytes
# and what is at 32768 and 65600 is read, and follows each other for awk.
filesystem_type() {
	{
		dd if="$1" bs=4608 count=1
		dd if="$1" bs=2048 skip=16 count=1
		dd if="$1" bs=64 skip=1025 count=1
	} 2>/dev/null | hexdump -v -e '/1 "%02x"' | awk '
	function at(offset, length_) { return substr($0, 2 * offset + 1, 2 * length_) }
	function fat() {
		return at(510, 2) == "55aa" && at(0, 1) ~ /e[9b]/ &&
			at(11, 2) ~ /^00(02|04|08|10)$/ && at(16, 1) ~ /0[12]/ && at(21, 1) ~ /f[08-f]/
	}
	END {
		if (NR == 0) print "empty"
		else if (at(4608 + 1, 5) == "4344303031") print "iso9660"
		else if (at(4608 + 1, 5) == "4245413031") print "udf"
		else if (at(0, 4) == "68737173") print "squashfs"
		else if (at(0, 4) == "58465342") print "xfs"
		else if (at(0, 6) == "4c554b53babe") print "LUKS"
		else if (at(3, 8) == "4558464154202020") print "exfat"
		else if (at(3, 8) == "4e54465320202020") print "ntfs3"
		else if (at(3, 8) == "2d4656452d46532d") print "BitLocker"
		else if (at(512, 8) == "4c4142454c4f4e45") print "LVM2"
		else if (at(1080, 2) == "53ef") print "ext4"
		else if (at(1024, 4) == "1020f5f2") print "f2fs"
		else if (at(1024, 4) == "e2e1f5e0") print "erofs"
		else if (at(4096, 4) == "fc4e2ba9") print "RAID"
		else if (at(4086, 10) == "53574150535041434532") print "swap"
		else if (at(4608 + 2048, 8) == "5f42485266535f4d") print "btrfs"
		else if (fat()) print "vfat"
		else if (at(510, 2) == "55aa") print "partitioned"
		else print "unknown"
	}'
}

readonly_options() {
	case $1 in
	ext4) echo ro,noload ;;
	xfs | f2fs) echo ro,norecovery ;;
	btrfs) echo ro,rescue=nologreplay ;;
	*) echo ro ;;
	esac
}

kernel_has_filesystem() {
	grep -qw "$1" /proc/filesystems && return
	load "$1"
	grep -qw "$1" /proc/filesystems
}

# Mounts device $1, holding $2, on $3. On failure $verdict says why.
mount_readonly() {
	local type="$2"
	mkdir -p "$3"
	case $type in
	LUKS | BitLocker | LVM2 | RAID | swap | partitioned | unknown) verdict="nothing to mount" && return 1 ;;
	empty) verdict="no medium, or not readable" && return 1 ;;
	vfat) load nls_cp437 nls_ascii nls_utf8 ;;
	esac
	kernel_has_filesystem "$type" || {
		verdict="no driver for $type in this initramfs"
		return 1
	}
	guarded_mount "$1" "$type" "$3" && return 0
	# isofs cannot use sectors of 4096 bytes; a loop device over them can be used.
	if [ "$type" = iso9660 ] && attach_loop "$1"; then
		mount -t iso9660 -o ro "$LOOP" "$3" 2>>"$LOG" && return 0
		losetup -d "$LOOP"
	fi
	verdict="mounting as $type failed: $(dmesg | tail -n 1 | cut -c 1-100)"
	return 1
}

# The device is read-only while the file system looks at its own state, and what
# it was before afterwards: the person may well want to write to that disk.
guarded_mount() {
	local was_readonly result
	was_readonly=$(blockdev --getro "$1" 2>/dev/null)
	[ "$was_readonly" = 0 ] && blockdev --setro "$1"
	mount -t "$2" -o "$(readonly_options "$2")" "$1" "$3" 2>>"$LOG"
	result=$?
	[ "$was_readonly" = 0 ] && blockdev --setrw "$1"
	return $result
}

# Read-only loop device over file $1, in $LOOP.
attach_loop() {
	load_loop
	LOOP=$(losetup -f) && [ "$LOOP" ] && losetup -r "$LOOP" "$1" 2>>"$LOG"
}
