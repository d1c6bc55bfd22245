# The medium's files on an NFS server: liveiso.nfs=SERVER:/DIRECTORY, where
# DIRECTORY holds what is on the medium. The kernel's own client mounts it
# read-only, by NFS 4 or 3; addresses, not names, and none is DHCP's boot server.
# The image is read from there, or copied with toram. Left out: Kerberos, other ports than NFS's.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Mounts it as $MEDIUM; $verdict says why not.
mount_nfs() {
	local server version
	bring_up_network || return 1
	case $opt_nfs in :*) opt_nfs=$(boot_server)$opt_nfs ;; esac
	server=${opt_nfs%%:*}
	verdict="DHCP names no boot server: write liveiso.nfs=ADDRESS$opt_nfs"
	[ "$server" ] || return 1
	load nfs nfsv4 nfsv3
	mkdir -p "$MEDIUM"
	say "mounting $opt_nfs"
	verdict=''
	for version in 4.2 4.0 3; do
		mount -t nfs -o "ro,nolock,soft,proto=tcp,addr=$server,clientaddr=$(own_address),vers=$version" \
			"$opt_nfs" "$MEDIUM" 2>>"$LOG" && break
		# What the newest version says is what matters.
		verdict=${verdict:-$opt_nfs cannot be mounted: $(tail -n 1 "$LOG" | sed 's/.*failed: //')}
	done
	grep -q " $MEDIUM " /proc/mounts || return 1
	if is_our_medium "$MEDIUM"; then
		medium_name="$opt_nfs (nfs $version)"
		return 0
	fi
	umount "$MEDIUM"
	verdict="$opt_nfs: $verdict"
	return 1
}

own_address() {
	sed 's|^[^ ]* ||; s|/.*||' "$LIVE/lease"
}
