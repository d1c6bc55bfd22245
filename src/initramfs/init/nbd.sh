# A network block device: liveiso.nbd=SERVER[:PORT][/EXPORT] on the command line,
# or a hook that calls attach_nbd. It may hold an image, a root or a whole
# medium. nbd-client, or nbd-connect.sh, hands the connection to the kernel and
# ends. Addresses, not names, as in network.sh; none is that of DHCP's boot server.
# Left out: TLS.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

nbd_from_command_line() {
	attach_nbd "$opt_nbd"
	offer "$found"
}

# Sets $found to the device.
attach_nbd() {
	local place server port=10809 name='' size=0
	found=/dev/nbd0
	# nbdroot=SERVER,EXPORT is initramfs-tools' way, nbd:SERVER:PORT/EXPORT dracut's.
	place=$(echo "${1#nbd:}" | tr , /)
	server=${place%%/*}
	case $place in */*) name=${place#*/} ;; esac
	case $server in *:*) port=${server#*:} server=${server%%:*} ;; esac
	read -r size 2>/dev/null </sys/block/nbd0/size
	[ "$size" -gt 0 ] && return 0
	part network
	bring_up_network || fail "$verdict"
	[ "$server" ] || server=$(boot_server)
	[ "$server" ] || fail "DHCP names no boot server: write liveiso.nbd=ADDRESS/${name:-EXPORT}"
	# Debian's default of 16 devices costs memory for nothing.
	modprobe -bq nbd nbds_max=1
	[ -b "$found" ] || fail "this initramfs has no module nbd"
	say "attaching ${name:-the default export} of $server port $port"
	connect_nbd >"$LIVE/loader" 2>&1 || fail "$server port $port: $(tail -n 1 "$LIVE/loader")"
	read -r size </sys/block/nbd0/size
	[ "$size" -gt 0 ] || fail "$server port $port: the export is empty"
}

connect_nbd() {
	if command -v nbd-client >/dev/null; then
		nbd-client "$server" "$port" "$found" ${name:+-N "$name"} -readonly -persist
	else
		nc -w 10 "$server" "$port" -e /bin/sh "$LIBRARY/nbd-connect.sh" "$name"
	fi
}
