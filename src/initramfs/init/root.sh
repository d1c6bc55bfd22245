# From the medium to the new root: image, writable layer, overlay, its init.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# PID 1 waits here while a child does the work; whatever ends that child early,
# PID 1 is still there to say so and to begin again.
mountroot() {
	until (mount_live_root); do
		(trouble "/init stopped in the middle; the log may say why")
		sleep 1
	done
}

mount_live_root() {
	until find_medium; do
		trouble "the medium of this build was not found in $opt_timeout s" look_again && break
	done
	stop_plugging
	say "medium: $medium_name, after $(uptime_seconds) s"
	cp "$MEDIUM/.disk/info" "$LIVE/info" 2>/dev/null
	pause_at media
	# shellcheck disable=SC2153 # IMAGE is the builder's word
	image=$MEDIUM/$INSTALL_DIR/$IMAGE
	[ "$opt_verify" ] && until verify_medium; do
		trouble "the medium is damaged: $(tail -n 1 "$LOG")"
	done
	copy_to_ram
	until mount_image; do
		trouble "the image cannot be mounted: damaged medium, or the kernel lacks its compression"
	done
	start_zram
	until mount_overlay; do
		trouble "the writable root cannot be mounted"
	done
	say_plan
	pause_at mount
	until init_exists; do
		trouble "$opt_init is not a program in the image"
	done
	pause_at bottom
	clean_up
}

# One more look while the menu stands: the stick may have been plugged in late.
look_again() {
	coldplug
	look_round
}

# SHA-256 of the images against the list on the medium, where it has one.
verify_medium() {
	if [ ! -f "$MEDIUM/$INSTALL_DIR/sha256sums" ]; then
		warn "verify: this medium carries no $INSTALL_DIR/sha256sums"
		return 0
	fi
	say "checking the images on the medium"
	(cd "$MEDIUM/$INSTALL_DIR" && sha256sum -c sha256sums >>"$LOG" 2>&1)
}

# The builder names the image for its file system.
image_filesystem() {
	case $IMAGE in
	*.erofs) echo erofs ;;
	*) echo squashfs ;;
	esac
}

mount_image() {
	mkdir -p "$LIVE/ro"
	attach_loop "$image" || return 1
	mount -t "$(image_filesystem)" -o ro "$LOOP" "$LIVE/ro" 2>>"$LOG" && return 0
	losetup -d "$LOOP"
	return 1
}

# The new root lies outside /run, because /run is moved into it.
mount_overlay() {
	mkdir -p "$LIVE/rw"
	grep -q " $LIVE/rw " /proc/mounts ||
		mount -t tmpfs -o "size=$opt_rw_size,mode=0700" rw "$LIVE/rw" 2>>"$LOG" || return 1
	mkdir -p "$LIVE/rw/upper" "$LIVE/rw/work"
	mount -t overlay -o "lowerdir=$LIVE/ro,upperdir=$LIVE/rw/upper,workdir=$LIVE/rw/work" \
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
	cp /etc/liveiso/id "$LIVE/id"
	rm -rf "$SEEN" "$ASKED" "$ASKED".*
	rmdir "$TRIAL" 2>/dev/null
	log "handing over to $opt_init after $(uptime_seconds) s, MemAvailable $(meminfo MemAvailable) kB"
}

# switch_root deletes the initramfs; the kernel passes words it does not know on
# to init, so only those meant for it are given. /proc goes last: ash finds its
# applets through it.
hand_over() {
	local dir
	mkdir -p "$NEWROOT/proc" "$NEWROOT/sys" "$NEWROOT/dev" "$NEWROOT/run"
	[ "$opt_debug" ] && { set +x; exec 2>/dev/console; }
	for dir in dev sys run proc; do
		/bin/busybox mount -o move "/$dir" "$NEWROOT/$dir"
	done
	# shellcheck disable=SC2086 # words
	exec /bin/busybox env -i TERM=linux HOME=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/bin/busybox switch_root -c /dev/console "$NEWROOT" "$opt_init" $opt_init_args
}
