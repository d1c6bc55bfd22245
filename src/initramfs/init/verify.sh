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

# Is $1 the digest of file $2? $verdict says why not.
verify_file() {
	local pid position=0 total rest
	verdict='is missing'
	[ -f "$2" ] || return 1
	total=$(file_kb "$2")
	sha256sum "$2" >"$LIVE/digest" 2>>"$LOG" &
	pid=$!
	# How far it is, from the position in the file it has open.
	while kill -0 "$pid" 2>/dev/null; do
		if [ $((position % 8)) = 0 ] && [ "$total" -gt 8192 ]; then
			rest=$(sed -n 's/^pos:[^0-9]*//p' "/proc/$pid/fdinfo/3" 2>/dev/null)
			say "verify: ${2##*/}: $(mib $((${rest:-0} / 1024))) of $(mib "$total") MiB"
		fi
		position=$((position + 1))
		usleep 500000
	done
	verdict='cannot be read'
	wait "$pid" || return 1
	verdict='is damaged'
	read -r rest _ <"$LIVE/digest"
	[ "$rest" = "$1" ]
}
