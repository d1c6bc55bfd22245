# Drivers: a module is loaded because a device asks for it and for no other
# reason, since every one costs memory that is not given back.
#
# Debian's kernels have no uevent helper, so the bus is read instead of listened
# to: /sys/kernel/uevent_seqnum moves when a device comes, then every modalias
# that was not there before goes to modprobe. Polling cannot lose an event.
# shellcheck shell=sh disable=SC3043,SC2034,SC2154

ASKED=$LIVE/modaliases
coldplug_seqnum=''
# With less RAM than this every page counts.
TIGHT_KB=65536

load() {
	modprobe -abq "$@" 2>/dev/null
	forget_loaded
}

# The file of a loaded module is in RAM for nothing. Where that is tight it goes, but
# for the one that is loaded twice; a file in an image would only gain a whiteout.
forget_loaded() {
	[ "$(meminfo MemTotal)" -lt "$TIGHT_KB" ] && [ ! -e /squash ] || return 0
	find /lib/modules -name '*.ko' ! -name 'ata_generic.ko' | awk '
		BEGIN { while ((getline <"/proc/modules") > 0) loaded[$1] }
		{ name = $0; sub(/.*\//, "", name); sub(/\.ko$/, "", name); gsub(/-/, "_", name); if (name in loaded) print }
	' | xargs -r rm -f
}

# Debian's default of eight devices with 128 requests each takes 0.7 MB; more
# devices are made when someone asks for them.
load_loop() {
	modprobe -bq loop max_loop=1 hw_queue_depth=16 2>/dev/null
}

# On Debian's busybox modprobe -b honours blacklists for named modules too.
blacklist_modules() {
	local name
	for name in $opt_blacklist; do
		echo "blacklist $name"
	done >/etc/modprobe.d/command-line.conf
}

# True when something new has asked for a driver.
coldplug() {
	local seqnum=''
	read -r seqnum </sys/kernel/uevent_seqnum
	[ "$seqnum" = "$coldplug_seqnum" ] && return 1
	coldplug_seqnum=$seqnum
	[ -e "$ASKED" ] || true >"$ASKED"
	grep -hs '^MODALIAS=' /sys/bus/*/devices/*/uevent | cut -d= -f2- | sort -u >"$ASKED.now"
	sort "$ASKED" "$ASKED" "$ASKED.now" | uniq -u >"$ASKED.new"
	[ -s "$ASKED.new" ] || return 1
	cp "$ASKED.now" "$ASKED"
	tr '\n' '\0' <"$ASKED.new" | xargs -0 -n 64 modprobe -abq 2>/dev/null
	forget_loaded
	return 0
}

# Goes on in the background while something else holds up the main line.
keep_plugging() {
	(while sleep 0.3; do coldplug; done) &
	echo $! >"$LIVE/plugging"
}

stop_plugging() {
	[ -e "$LIVE/plugging" ] && kill "$(cat "$LIVE/plugging")" && rm -f "$LIVE/plugging"
}

# Controllers that no bus announces, or that the careful drivers leave alone.
# Only when nothing else was found: probing them can upset other hardware.
load_legacy_ide() {
	say "nothing yet: trying the drivers of very old IDE controllers"
	rmmod ata_generic 2>/dev/null
	modprobe -bq ata_generic all_generic_ide=1 2>/dev/null
	load pata_legacy pata_isapnp pata_qdi pata_winbond_vlb
}

# Storage and USB, FireWire and SD controllers nothing has claimed.
driverless_controllers() {
	local device class
	for device in /sys/bus/pci/devices/*; do
		read -r class 2>/dev/null <"$device/class" || continue
		case $class in
		0x01* | 0x0c03* | 0x0c00* | 0x0805*) ;;
		*) continue ;;
		esac
		[ -e "$device/driver" ] ||
			echo "  ${device##*/} class $class id $(cat "$device/vendor"):$(cat "$device/device")"
	done
}

# The layout of the screen's keyboard, for passphrases and shells; the kernel keeps
# it for the new root. The files (loadkeys -b writes them) are the profile's.
KEYMAPS=/etc/kmap
load_keymap() {
	local file names=''
	case $opt_keymap in */* | .*) ;; *) file=$KEYMAPS/$opt_keymap.bmap ;; esac
	if [ -f "$file" ]; then
		loadkmap <"$file" 2>>"$LOG" || log "kmap=$opt_keymap: no screen with a keyboard, or $file is damaged"
		return
	fi
	for file in "$KEYMAPS"/*.bmap; do
		[ -f "$file" ] && names="$names ${file##*/}"
	done
	warn "kmap=$opt_keymap: this initramfs has no such keyboard layout; it has:${names:- none}"
}
