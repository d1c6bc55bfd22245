# verify: SHA-256 of the files on the medium against /INSTALL_DIR/sha256sums,
# which the builder wrote. In that list is what must be bit for bit right; menus
# are not, because Rufus and people change those.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

# True when every file is as it was built; $damage says what is not.
verify_medium() {
	local list="$MEDIUM/$INSTALL_DIR/sha256sums" digest name
	damage=''
	[ -f "$list" ] || {
		damage="there is no $INSTALL_DIR/sha256sums to check it against"
		return 1
	}
	while read -r digest name; do
		verify_file "$digest" "$MEDIUM/$INSTALL_DIR/$name" || damage="$damage${damage:+, }/$INSTALL_DIR/$name $verdict"
	done <"$list"
	[ "$damage" ] && return 1
	say "verify: every file of the medium is as it was built"
}

# Is $image this build's, wherever it lies? $verdict says why not.
verify_image() {
	local digest bytes
	verdict="cannot be checked: this initramfs does not know the image's digest"
	read -r digest bytes </etc/liveiso/image || return 1
	verdict="holds an image of $image_bytes bytes: this build's has $bytes"
	[ "${image_bytes:-$bytes}" = "$bytes" ] || return 1
	verify_file "$digest" "$image" "$bytes" && say "verify: the image is as it was built"
}

# Is $1 the digest of file $2, or of the first $3 bytes of device $2? $verdict says why not.
verify_file() {
	local pid summing position=0 total rest bytes="$3"
	verdict='is missing'
	[ -e "$2" ] || return 1
	[ "$bytes" ] || bytes=$(stat -L -c %s "$2")
	total=$(((bytes + 1023) / 1024))
	rm -f "$LIVE/pipe" && mkfifo "$LIVE/pipe"
	sha256sum "$LIVE/pipe" >"$LIVE/digest" 2>>"$LOG" &
	summing=$!
	dd if="$2" of="$LIVE/pipe" bs=64k iflag=count_bytes count="$bytes" status=none 2>>"$LOG" &
	pid=$!
	# How far it is, from the position in the file dd reads as standard input.
	while kill -0 "$pid" 2>/dev/null; do
		if [ $((position % 8)) = 0 ] && [ "$total" -gt 8192 ]; then
			rest=$(sed -n 's/^pos:[^0-9]*//p' "/proc/$pid/fdinfo/0" 2>/dev/null)
			say "verify: ${2##*/}: $(mib $((${rest:-0} / 1024))) of $(mib "$total") MiB"
		fi
		position=$((position + 1))
		usleep 500000
	done
	verdict='cannot be read'
	wait "$pid" || { kill "$summing" 2>/dev/null; return 1; }
	wait "$summing" || return 1
	verdict='is damaged'
	read -r rest _ <"$LIVE/digest"
	[ "$rest" = "$1" ]
}
