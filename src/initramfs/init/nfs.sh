# The medium's files on an NFS server: liveiso.nfs=SERVER:/DIRECTORY[,port=N],
# where DIRECTORY holds what is on the medium. The kernel's own client mounts it
# read-only, by NFS 4 or 3; addresses, not names, and none is DHCP's boot server.
# The image is read from there, or copied with toram. Left out: Kerberos, all of
# nfsroot's options but the port.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Mounts it as $MEDIUM; $verdict says why not.
mount_nfs() {
	local server place port version
	port=$(nfs_port)
	bring_up_network || return 1
	case $opt_nfs in :*) opt_nfs=$(boot_server)$opt_nfs ;; esac
	server=${opt_nfs%%:*}
	verdict="DHCP names no boot server: write liveiso.nfs=ADDRESS$opt_nfs"
	[ "$server" ] || return 1
	place=${opt_nfs%%,*}
	load nfs nfsv4 nfsv3
	mkdir -p "$MEDIUM"
	say "mounting $place"
	verdict=''
	for version in 4.2 4.0 3; do
		mount -t nfs -o "ro,nolock,soft,proto=tcp,addr=$server,clientaddr=$(own_address),vers=$version${port:+,port=$port}" \
			"$place" "$MEDIUM" 2>>"$LOG" && break
		# What the newest version says is what matters.
		verdict=${verdict:-$place cannot be mounted: $(tail -n 1 "$LOG" | sed 's/.*failed: //')}
	done
	grep -q " $MEDIUM " /proc/mounts || return 1
	if is_our_medium "$MEDIUM"; then
		medium_name="$place (nfs $version)"
		return 0
	fi
	umount "$MEDIUM"
	verdict="$place: $verdict"
	return 1
}

# The port among the options, or nothing.
nfs_port() {
	local rest
	case $opt_nfs in *,port=*) rest=${opt_nfs##*,port=} && number "${rest%%,*}" '' ;; esac
}

own_address() {
	sed 's|^[^ ]* ||; s|/.*||' "$LIVE/lease"
}
