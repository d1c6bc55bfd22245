#!/bin/sh
# The menu of one console: menu.sh menu|shell|secret CONSOLE LIVE_DIRECTORY
#
# Started as a session of its own, so opening the console makes it the
# controlling terminal and the shell below it has job control. Answers go to
# the fifo that trouble.sh reads.

what=$1 console=$2 live=$3
exec <>"$console" >&0 2>&0
# Caught, not ignored: an ignored Ctrl-C would be handed down to the shell.
trap 'echo' INT QUIT TSTP
stty sane 2>/dev/null
export PS1='liveiso# ' TERM=linux HOME=/

shell() {
	touch "$live/shell.${console##*/}"
	echo "Shell. exit leads back; the log is $live/log."
	sh -i
	rm -f "$live/shell.${console##*/}"
}

if [ "$what" = shell ]; then
	shell
	echo continue >"$live/answers"
	exit
fi

if [ "$what" = secret ]; then
	trap 'stty echo; echo; exit' HUP EXIT
	stty -echo
	printf '%s' "$(cat "$live/question") "
	# Nobody can answer on a console that ends at once.
	IFS= read -r key || exec sleep 3600
	printf '%s\n' "$key" >"$live/answers"
	exit
fi

while true; do
	echo
	printf '%s' "r: try again  d: choose a device  s: shell  l: log  b: reboot  p: power off > "
	if ! read -r key; then
		# Nobody can answer on this console.
		sleep 60
		continue
	fi
	case $key in
	r | R) echo retry >"$live/answers" ;;
	d | D)
		printf '%s' "device, for example sdb1 (any liveiso medium will do): "
		read -r device && [ "$device" ] && echo "device ${device#/dev/}" >"$live/answers"
		;;
	s | S) shell ;;
	l | L) more "$live/log" ;;
	b | B) reboot -f ;;
	p | P) poweroff -f ;;
	esac
done
