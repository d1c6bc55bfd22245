# The image over the network: liveiso.net=http://SERVER/DIR or tftp://SERVER/DIR,
# where DIR holds what is on the medium; a script of iPXE there may be named too,
# and `tftp:` alone is the directory of the boot file that DHCP names. Addresses,
# not names: a static busybox resolves none. The image is copied to RAM; length
# and SHA-256 must be those the initramfs carries. Left out: iSCSI, TLS; NBD and
# NFS have parts of their own.
# shellcheck shell=sh disable=SC3043,SC2034,SC2153,SC2154

# Sets $image to the copy in RAM; on failure $verdict says why.
fetch_image() {
	local digest bytes need available url base file="$LIVE/toram/${IMAGE##*/}"
	read -r digest bytes </etc/liveiso/image || {
		verdict="this initramfs does not know the image's digest"
		return 1
	}
	need=$(((bytes + 1023) / 1024)) available=$(meminfo MemAvailable)
	if [ $((need + RESERVE_KB)) -gt "$available" ]; then
		verdict="the image needs $need kB of RAM and the system $RESERVE_KB kB, $available kB are available"
		return 1
	fi
	bring_up_network || return 1
	find_base || return 1
	url=$base/$INSTALL_DIR/$IMAGE
	case $opt_net in *.sfs | *.squashfs | *.erofs) url=$opt_net ;; esac
	mkdir -p "$LIVE/toram"
	grep -q " $LIVE/toram " /proc/mounts ||
		mount -t tmpfs -o "size=$((need + 64))k,mode=0755,nosuid,nodev" toram "$LIVE/toram" || return 1
	say "fetching $(mib "$need") MiB from $url"
	rm -f "$file"
	download "$url" "$file" "$need" || return 1
	verdict="$url has $(stat -c %s "$file") bytes, not $bytes: another build, or cut off"
	[ "$(stat -c %s "$file")" = "$bytes" ] || return 1
	verify_file "$digest" "$file" || {
		verdict="$url $verdict: its SHA-256 is not that of this build"
		return 1
	}
	image=$file
}

# The address of the server that DHCP names.
boot_server() {
	cut -d ' ' -f 1 "$LIVE/server" 2>/dev/null
}

# Sets $base to the URL of what the medium holds.
find_base() {
	local server file
	# What boot.ipxe makes of a boot file that is a URL itself.
	case $opt_net in tftp://*/http://*) opt_net=http://${opt_net#*/http://} ;; esac
	case $opt_net in
	tftp:)
		read -r server file <"$LIVE/server" 2>/dev/null
		verdict="DHCP names no boot server: write liveiso.net=tftp://ADDRESS/DIR"
		[ "$server" ] || return 1
		file=${file#/}
		case $file in */*) base=tftp://$server/${file%/*} ;; *) base=tftp://$server ;; esac
		;;
	*.ipxe) base=${opt_net%/*} ;;
	*) base=${opt_net%/} ;;
	esac
}

# File $2 from URL $1, with a line every 10 MiB of the $3 kB. busybox's wget has no
# time-out: half a minute without a byte ends it.
download() {
	local loader rest copied=0 shown=0 before=0 still=0
	rest=${1#tftp://}
	case $1 in
	http://*) wget -q -O "$2" "$1" 2>"$LIVE/loader" & ;;
	tftp://*) tftp -b 1428 -g -l "$2" -r "${rest#*/}" "${rest%%/*}" 2>"$LIVE/loader" & ;;
	*)
		verdict="$1: only http:// and tftp:// can be fetched"
		return 1
		;;
	esac
	loader=$!
	while kill -0 "$loader" 2>/dev/null; do
		sleep 1
		copied=$(du -k "$2" 2>/dev/null | cut -f1)
		[ "${copied:-0}" -ge $((shown + 10240)) ] && shown=$copied && say "$(mib "$copied") of $(mib "$3") MiB"
		still=$((still + 1))
		[ "$copied" = "$before" ] || still=0 before=$copied
		[ "$still" -lt 30 ] || kill "$loader"
	done 2>/dev/null
	wait "$loader" && return 0
	verdict="$1: $(tail -n 1 "$LIVE/loader")"
	[ "$still" -lt 30 ] || verdict="$1: no byte came in 30 s"
	return 1
}

# An address by DHCP on the first wired interface that gets one.
bring_up_network() {
	local waited=0 path name
	[ -e "$LIVE/lease" ] && return 0
	printf '#!/bin/sh\n. %s/lease.sh\n' "$LIBRARY" >"$LIVE/lease.sh" && chmod 0755 "$LIVE/lease.sh"
	ip link set lo up
	load af_packet
	while [ "$waited" -lt "$opt_timeout" ]; do
		while coldplug; do true; done
		for path in /sys/class/net/*; do
			[ -e "$path/device" ] || continue
			[ -e "$path/wireless" ] && continue
			name=${path##*/}
			say "asking for an address on $name"
			ip link set "$name" up
			udhcpc -q -n -f -t 4 -T 3 -O bootfile -i "$name" -s "$LIVE/lease.sh" >>"$LOG" 2>&1 && [ -e "$LIVE/lease" ] &&
				say "network: $(cat "$LIVE/lease")" && return 0
		done
		waited=$((waited + 5))
		sleep 1
	done
	verdict="no network card with a driver in this initramfs"
	for path in /sys/class/net/*/device; do
		[ -e "$path" ] && verdict="no address by DHCP: is the cable in?"
	done
	return 1
}
