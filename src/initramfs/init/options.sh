# The kernel command line. Our own words begin with liveiso.; the spellings of
# archiso, live-boot, dracut and casper mean the same here, so that menus
# written for them (loopback.cfg, GLIM, Super Grub Disk) start this medium too.
# Nothing is evaluated: a word either matches here or is ignored.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Words the kernel does not know come as environment; these are nobody's to set.
unlock_options=''

opt_quiet='' opt_debug='' opt_loglevel='' opt_break='' opt_timeout=60
opt_device='' opt_iso='' opt_iso_device='' opt_any_build=''
opt_toram=auto opt_verify='' opt_rw_size=auto opt_zram=auto
opt_persistence='' opt_net='' opt_nbd='' opt_nfs='' opt_key='' opt_root_hash=''
opt_modules='' opt_blacklist='' opt_keymap='' opt_init=/sbin/init opt_init_args=''

# The words of $1, one a line. As in the kernel a double quote protects blanks,
# in front of the word or of its value; unlike there every quote is removed.
split_words() {
	printf '%s\n' "$1" | awk -F '"' '{
		for (i = 1; i <= NF; i++) {
			if (i % 2) gsub(/[ \t]+/, "\n", $i)
			printf "%s", $i
		}
		print ""
	}' | sed '/^$/d'
}

read_options() {
	local word rest=''
	split_words "$1" >"$LIVE/words"
	while IFS= read -r word; do
		if [ "$rest" ]; then
			opt_init_args="$opt_init_args $word"
		elif [ "$word" = -- ]; then
			rest=1
		else
			read_option "$word"
		fi
	done <"$LIVE/words"
	rm -f "$LIVE/words"
}

read_option() {
	local value="${1#*=}"
	case $1 in
	quiet) opt_quiet=1 ;;
	debug | liveiso.debug) opt_debug=1 ;;
	loglevel=* | ignore_loglevel) opt_loglevel=1 ;;
	break | rd.break) opt_break=media ;;
	break=* | rd.break=* | liveiso.break=*) opt_break=$(stage_name "$value") ;;
	liveiso.dev=* | live-media=/dev/* | archisodevice=*) opt_device=$value ;;
	liveiso.iso=* | findiso=* | iso-scan/filename=* | img_loop=*) opt_iso=$value ;;
	liveiso.isodev=* | img_dev=*) opt_iso_device=$value ;;
	fromiso=/dev/* | isofrom=/dev/*) split_device_path "${value#/dev/}" ;;
	liveiso.anyid) opt_any_build=1 ;;
	toram | copytoram | liveiso.toram | rd.live.ram) opt_toram=y ;;
	toram=* | copytoram=* | liveiso.toram=* | rd.live.ram=*) opt_toram=$(toram_choice "$value") ;;
	persistence | persistent | liveiso.persistence) opt_persistence=rw ;;
	persistence=* | liveiso.persistence=*) opt_persistence=$(persistence_mode "$value") ;;
	persistence-read-only) opt_persistence=ro ;;
	liveiso.net=* | fetch=* | archiso_http_srv=*) opt_net=$value ;;
	liveiso.nbd=* | nbdroot=* | netroot=nbd:* | root=nbd:*) opt_nbd=$value ;;
	liveiso.nfs=* | nfsroot=*:/* | archiso_nfs_srv=*) opt_nfs=$value ;;
	liveiso.key=*) opt_key=$value ;;
	verify | checksum | liveiso.verify | verify-checksums | rd.live.check) opt_verify=y ;;
	verify=* | checksum=* | liveiso.verify=* | verify-checksums=*) opt_verify=$(yes_or_no "$value") ;;
	liveiso.verity=* | roothash=* | dm-verity-root-hash=*) opt_root_hash=$value ;;
	liveiso.timeout=* | rootdelay=* | live-media-timeout=*) opt_timeout=$(number "$value" 60) ;;
	liveiso.rwsize=* | cow_spacesize=* | overlay-size=*) opt_rw_size=$(size "$value" auto) ;;
	liveiso.zram=*) opt_zram=$(number "$value" auto) ;;
	modprobe.blacklist=* | module_blacklist=* | rd.driver.blacklist=*)
		opt_blacklist="$opt_blacklist $(comma_words "$value")" ;;
	modules=* | modules-load=* | rd.driver.pre=*) opt_modules="$opt_modules $(comma_words "$value")" ;;
	kmap=* | keymap=* | vconsole.keymap=* | rd.vconsole.keymap=*) opt_keymap=$value ;;
	init=/*) opt_init=$value ;;
	single | s | S | [1-5] | emergency | -b) opt_init_args="$opt_init_args $1" ;;
	esac
}

# Where the search for a break stops; initramfs-tools' names as well as ours.
stage_name() {
	case $1 in
	top | modules) echo modules ;;
	premount | media | medium | y) echo media ;;
	mount | mountroot | root) echo mount ;;
	*) echo bottom ;;
	esac
}

# fromiso=/dev/sda1/dir/x.iso names device and file in one; udev's names of a device
# have more parts.
split_device_path() {
	local parts=1 device='' rest="$1"
	case $1 in
	disk/by-*/*/*) parts=3 ;;
	mapper/*/*) parts=2 ;;
	esac
	while [ "$parts" -gt 0 ]; do
		device=$device/${rest%%/*} rest=${rest#*/} parts=$((parts - 1))
	done
	opt_iso_device=/dev$device
	opt_iso=/$rest
}

# y or nothing.
yes_or_no() {
	case $1 in y | yes | 1 | true | on) echo y ;; esac
}

# y, auto or nothing. live-boot's toram=FILE copies, too: that file is the image.
toram_choice() {
	case $1 in
	auto) echo auto ;;
	n | no | 0 | false | off) ;;
	*) echo y ;;
	esac
}

# rw, ro (look, do not touch), replay (as rw, also after a crash) or nothing.
persistence_mode() {
	case $1 in
	ro | replay) echo "$1" ;;
	*) [ "$(yes_or_no "$1")" ] && echo rw ;;
	esac
}

# $1 if it is a number the shell can count with (no octal trap), else $2.
number() {
	case $1 in
	0) echo 0 ;;
	'' | 0* | *[!0-9]* | ???????*) echo "$2" ;;
	*) echo "$1" ;;
	esac
}

# A size in the words of tmpfs: number and an optional k, m, g or %. Zero would be no limit.
size() {
	local digits="${1%[kKmMgG%]}"
	case $digits in
	'' | *[!0-9]* | 0*) echo "$2" ;;
	*) echo "$1" ;;
	esac
}

# Comma separated names as words; what is no module name is dropped.
comma_words() {
	printf '%s\n' "$1" | tr ',' '\n' | grep -E '^[A-Za-z0-9_-]+$' | tr '\n' ' '
}
