# From the medium to the new root: image, writable layer, overlay, its init.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# Both come from trouble.sh, which replaces these on first use.
trouble() {
	part trouble
	trouble "$@"
}

pause_at() {
	[ "$opt_break" = "$1" ] || return 0
	part trouble
	pause_at "$@"
}

# PID 1 waits here while a child does the work; whatever ends that child early,
# PID 1 is still there to say so and to begin again.
mountroot() {
	until (mount_live_root); do
		(trouble "/init stopped in the middle; the log may say why")
		sleep 1
	done
}

mount_live_root() {
	local persistence='' persistence_name=''
	medium_device=''
	run_hooks media
	find_image
	pause_at media
	until mount_image; do
		trouble "the image cannot be mounted: $verdict"
	done
	start_zram
	run_hooks mount
	[ "$opt_persistence" ] && part persist && start_persistence
	until mount_overlay; do
		trouble "the writable root cannot be mounted"
	done
	say_plan
	pause_at mount
	until init_exists; do
		trouble "$opt_init is not a program in the image"
	done
	run_hooks bottom
	pause_at bottom
	clean_up
}

# The profile's own steps at stage $1, each in a child; what fails can be tried again.
run_hooks() {
	local hook
	for hook in "$LIBRARY/hooks/$1"/*; do
		[ -f "$hook" ] || continue
		say "hook ${hook##*/}"
		until (part hook && run_hook "$hook"); do
			trouble "hook ${hook##*/}: $(cat "$LIVE/verdict")"
		done
	done
	[ "$1" = media ] && [ "$opt_nbd" ] || return 0
	echo "there is no nbd-client in this initramfs" >"$LIVE/verdict"
	until (part hook && part nbd && nbd_from_command_line); do
		trouble "network block device: $(cat "$LIVE/verdict")"
	done
}

# Sets $image: in the initramfs, from the network, a device that a hook offered,
# or on (or from) the medium.
find_image() {
	# Of an image on a device of its own: what it is, and how long.
	image='' image_type='' image_bytes=''
	# shellcheck disable=SC2153 # IMAGE is the builder's word
	if [ -f "/$INSTALL_DIR/$IMAGE" ]; then
		image=/$INSTALL_DIR/$IMAGE
		say "image: in the initramfs"
		[ "$opt_verify" ] && part verify && until verify_image; do
			trouble "the image in the initramfs $verdict"
		done
	elif [ "$opt_net" ]; then
		part verify
		part network
		until fetch_image; do
			trouble "the image could not be fetched: $verdict"
		done
	elif [ -s "$LIVE/offered" ] && part hook && find_offered; then
		say "image: $image"
		[ "$opt_verify" ] && check_offered
		copy_to_ram
	else
		find_image_on_medium
	fi
}

find_image_on_medium() {
	if [ "$opt_nfs" ]; then
		verdict="this initramfs has no module nfs"
		until [ -f "$LIBRARY/nfs.sh" ] && part network && part nfs && mount_nfs; do
			trouble "NFS: $verdict"
		done
	else
		until find_medium; do
			trouble "the medium of this build was not found in $opt_timeout s" look_again && break
		done
	fi
	say "medium: $medium_name, after $(uptime_seconds) s"
	cp "$MEDIUM/.disk/info" "$LIVE/info" 2>/dev/null
	image=$MEDIUM/$INSTALL_DIR/$IMAGE
	if [ "$opt_verify" ]; then
		part verify
		until verify_medium; do
			trouble "the medium is damaged: $damage"
		done
	fi
	copy_to_ram
}

# One more look while the menu stands: the stick may have been plugged in late.
look_again() {
	coldplug
	look_round
}

# The builder names the image for its file system.
image_filesystem() {
	case $IMAGE in
	*.erofs) echo erofs ;;
	*) echo squashfs ;;
	esac
}

mount_image() {
	local device="$image" reason="damaged medium, or the kernel lacks its compression"
	mkdir -p "$LIVE/ro"
	LOOP='' VERITY_DEVICE='' verdict="no loop device"
	if [ ! -b "$image" ]; then
		attach_loop "$image" || return 1
		device=$LOOP
	fi
	if open_checked && mount_readonly "${VERITY_DEVICE:-$device}" "${image_type:-$(image_filesystem)}" "$LIVE/ro"; then
		[ "$VERITY_DEVICE" ] && say "verity: every block of the image is checked when it is read"
		return 0
	fi
	[ "$VERITY_DEVICE" ] && close_verity
	[ "$LOOP" ] && losetup -d "$LOOP"
	verdict=$reason
	return 1
}

# With a hash tree $VERITY_DEVICE is what to mount; $reason says what failure means.
open_checked() {
	[ "$opt_root_hash" ] || [ -f /etc/liveiso/verity ] || return 0
	part verity
	open_verity "$device" && reason="damaged, or not the image of the root hash $root_hash" && return 0
	reason=$verdict
	return 1
}

# The new root lies outside /run, because /run is moved into it.
mount_overlay() {
	local lower="$LIVE/ro"
	mkdir -p "$LIVE/rw"
	grep -q " $LIVE/rw " /proc/mounts ||
		mount -t tmpfs -o "size=$(changes_size),mode=0700" rw "$LIVE/rw" 2>>"$LOG" || return 1
	mkdir -p "$LIVE/rw/upper" "$LIVE/rw/work"
	[ "$persistence" = ro ] && lower="$LIVE/changes/upper:$lower"
	mount -t overlay -o "lowerdir=$lower,upperdir=$LIVE/rw/upper,workdir=$LIVE/rw/work" \
		overlay "$NEWROOT" 2>>"$LOG"
}

# Is $opt_init an executable file in the new root, followed as from inside?
init_exists() {
	local program
	program=$(resolve_in "$NEWROOT" "$opt_init") && [ -f "$program" ] && [ -x "$program" ]
}

# Path $2 inside the tree $1 with every link resolved inside it; fails on a loop.
resolve_in() {
	local done_path='' rest="${2#/}" name target hops=0
	while [ "$rest" ]; do
		name=${rest%%/*}
		case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
		case $name in
		'' | .) continue ;;
		..) done_path=${done_path%/*} && continue ;;
		esac
		if [ -L "$1$done_path/$name" ]; then
			hops=$((hops + 1))
			[ "$hops" -gt 40 ] && return 1
			target=$(readlink "$1$done_path/$name")
			case $target in /*) done_path='' ;; esac
			rest=$target${rest:+/$rest}
		else
			done_path=$done_path/$name
		fi
	done
	echo "$1$done_path"
}

clean_up() {
	stop_plugging
	cp /etc/liveiso/id "$LIVE/id"
	rm -rf "$SEEN" "$ASKED" "$ASKED".* "$LIVE"/tag.*
	rm -f "$LIVE/lease.sh" "$LIVE/loader" "$LIVE/digest" "$LIVE/pipe" "$LIVE/server" "$LIVE/offered" "$LIVE/verdict" "$LIVE/question"
	rmdir "$TRIAL" 2>/dev/null
	[ "$VERITY_DEVICE" ] && keep_means_to_close
	log "handing over to $opt_init after $(uptime_seconds) s, MemAvailable $(meminfo MemAvailable) kB"
}

# switch_root deletes the initramfs; the kernel passes words it does not know on
# to init, so only those meant for it are given. /proc goes last: ash finds its
# applets through it.
hand_over() {
	local dir
	mkdir -p "$NEWROOT/proc" "$NEWROOT/sys" "$NEWROOT/dev" "$NEWROOT/run"
	[ "$opt_debug" ] && { set +x; exec 2>/dev/console; }
	[ -e /squash/loader.sh ] && release_squash # defined there
	# Its arguments are words, whatever is in them.
	set -f
	for dir in dev sys run proc; do
		/bin/busybox mount -o move "/$dir" "$NEWROOT/$dir"
	done
	# shellcheck disable=SC2086 # words
	exec /bin/busybox env -i TERM=linux HOME=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/bin/busybox switch_root -c /dev/console "$NEWROOT" "$opt_init" $opt_init_args
}
