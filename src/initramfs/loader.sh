# The layout `squashed`: all but busybox, /init and this file lies compressed in
# /squash/root.sfs. /init sources this before it sources anything else, and
# calls release_squash before it hands over.
#
# Every directory of the image that is needed becomes an overlay of itself over
# the loader's own, writable in a tmpfs. busybox's mount gives the loop device
# autoclear: it goes when the last mount goes, and the image's memory with it,
# because switch_root deletes its only name.
# shellcheck shell=sh disable=SC3043

mount_squash() {
	local dir name
	# One loop device now, more on demand: each costs 90 kB.
	modprobe -bq loop max_loop=1 hw_queue_depth=16 2>/dev/null
	modprobe -abq squashfs overlay 2>/dev/null
	mkdir -p /squash/ro /squash/rw
	mount -t squashfs -o ro,loop /squash/root.sfs /squash/ro || return 1
	mount -t tmpfs -o mode=0755 squash /squash/rw || return 1
	for dir in /squash/ro/*; do
		name=${dir##*/}
		mkdir -p "/squash/rw/$name/upper" "/squash/rw/$name/work" "/$name"
		mount -t overlay -o "lowerdir=$dir:/$name,upperdir=/squash/rw/$name/upper,workdir=/squash/rw/$name/work" \
			squash "/$name" || return 1
	done
}

# Something may still run from there (a shell, a hook's program): then the mount
# goes with its last user.
release_squash() {
	local dir
	for dir in /squash/ro/*; do
		umount "/${dir##*/}" 2>/dev/null || umount -l "/${dir##*/}"
	done
	for dir in /squash/rw /squash/ro; do
		umount "$dir" 2>/dev/null || umount -l "$dir"
	done
}

until mount_squash; do
	echo "!! liveiso: the boot files cannot be unpacked. A shell; leave it with exit to try again." >/dev/console
	/bin/busybox sh </dev/console >/dev/console 2>&1
done
