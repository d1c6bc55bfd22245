# The client of a network block device where there is no nbd-client: agrees with
# the server on an export (NBD doc/proto.md: fixed newstyle, EXPORT_NAME) and hands
# the connection to the kernel by generic netlink (linux/nbd-netlink.h). Runs with
# the server on standard input and output:
#   nc SERVER PORT -e /bin/sh nbd-connect.sh EXPORT
# Left out: TLS, connecting again to a server that went away.
# shellcheck shell=sh disable=SC3043,SC1091

give_up() {
	echo "$*" >&2
	exit 1
}

# $1 bytes of standard input in hexadecimal.
received() {
	dd bs=1 count="$1" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'
}

# Number $1 as 32 bits, big-endian.
be32() {
	# shellcheck disable=SC2059 # the format is made of octal digits
	printf "$(printf '\\%03o' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) $(($1 & 255)))"
}

# Asks the kernel what stands in $REQUEST: $answer, in hexadecimal.
ask_kernel() {
	answer=$(/bin/netlink 3<"$REQUEST" | od -An -v -tx1 | tr -d ' \n')
}

# $2 bytes of $answer from byte $1 on, as a little-endian number.
in_answer() {
	local at=$(($1 + $2)) digits=''
	while [ "$at" -gt "$1" ]; do
		digits=$digits$(printf %s "$answer" | cut -c $((at * 2 - 1))-$((at * 2)))
		at=$((at - 1))
	done
	echo $((0x${digits:-0}))
}

# Sets $size, in bytes, and $flags of export $1.
agree() {
	local greeting offered
	greeting=$(received 18)
	case $greeting in
	4e42444d4147494349484156454f5054????) ;;
	*) give_up "what answers is no NBD server" ;;
	esac
	# FIXED_NEWSTYLE and NO_ZEROES, if both sides know them.
	offered=$((0x${greeting#????????????????????????????????} & 3))
	be32 "$offered"
	printf IHAVEOPT
	be32 1
	be32 ${#1}
	printf %s "$1"
	greeting=$(received 10)
	[ ${#greeting} = 20 ] || give_up "it has no export ${1:-of no name}"
	[ "$offered" -ge 2 ] || received 124 >/dev/null
	size=$((0x${greeting%????})) flags=$((0x${greeting#????????????????}))
}

# Gives the socket, which is descriptor 0, to /dev/nbd0.
hand_to_kernel() {
	local family
	# To the controller, which is family 16: GETFAMILY nbd, as attribute 2.
	{ le32 28 $((16 | 1 << 16)) 0 0 $((3 | 1 << 8)) $((8 | 2 << 16)) && printf 'nbd\0'; } >"$REQUEST"
	ask_kernel
	# The name comes first in the answer, then the number, attribute 1.
	[ "$(in_answer 28 4)" = $((6 | 1 << 16)) ] || give_up "the kernel's nbd has no netlink"
	family=$(in_answer 32 2)
	# CONNECT, with acknowledgement: index, size, block size, flags (read-only is 2), sockets.
	{
		le32 80 $((family | 5 << 16)) 0 0 $((1 | 1 << 8))
		le32 $((8 | 1 << 16)) 0
		le32 $((12 | 2 << 16)) $((size & 0xffffffff)) $((size >> 32))
		le32 $((12 | 3 << 16)) 512 0
		le32 $((12 | 5 << 16)) $((flags | 2)) 0
		le32 $((16 | 7 << 16)) $((12 | 1 << 16)) $((8 | 1 << 16)) 0
	} >"$REQUEST"
	ask_kernel
	# An answer of type 2 is an error's number.
	[ "$(in_answer 4 2)" = "$family" ] || give_up "the kernel refuses it, error $((0x100000000 - $(in_answer 16 4)))"
}

REQUEST=/run/initramfs/live/request
# shellcheck source=src/initramfs/init/verity.sh
. /lib/liveiso/verity.sh # for le32
agree "$1"
hand_to_kernel
rm -f "$REQUEST"
