# LUKS, with cryptsetup: the key is a file on a stick found by its label
# (liveiso.key=LABEL:/FILE or the caller's word); without it the passphrase is
# asked on every console.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

KEY_STICK=$LIVE/key
KEY_WAIT=20

# open_luks DEVICE NAME [LABEL:/FILE]: sets $found to /dev/mapper/NAME.
open_luks() {
	local key="${opt_key:-$3}" tries=3
	found=/dev/mapper/$2
	[ -b "$found" ] && return 0
	load dm-crypt
	cryptsetup isLuks "$1" 2>>"$LOG" || fail "$1 holds no LUKS container"
	case $key in *:/*) (open_with_stick "$1" "$2" "${key%%:*}" "${key#*:}") && return 0 ;; esac
	while [ "$tries" -gt 0 ]; do
		tries=$((tries - 1))
		ask_secret "Passphrase for $2:"
		printf '%s' "$secret" | unlock "$1" "$2" - && return 0
		warn "that passphrase does not open $2"
	done
	fail "$1 was not unlocked"
}

open_with_stick() {
	local stick verdict='' result=1
	if ! find_labelled "$3" "$KEY_WAIT"; then
		warn "no file system labelled $3 with the key: the passphrase will do"
		return 1
	fi
	stick=$found
	if ! mount_readonly "$stick" "$(filesystem_type "$stick")" "$KEY_STICK"; then
		warn "$stick with the key: $verdict"
		return 1
	fi
	if [ ! -f "$KEY_STICK$4" ]; then
		warn "there is no $4 on $stick ($3)"
	elif unlock "$1" "$2" "$KEY_STICK$4"; then
		result=0
		say "$2 is unlocked; $stick may be removed"
	else
		warn "$4 on $stick ($3) does not open $2"
	fi
	umount "$KEY_STICK"
	return $result
}

# Key file - is standard input. Read-only devices make read-only mappings.
unlock() {
	# shellcheck disable=SC2086 # none or one word
	cryptsetup open $unlock_options --type luks --key-file "$3" "$1" "$2" >>"$LOG" 2>&1
}
