# What udhcpc runs: sets the interface up with the lease in the environment.
# shellcheck shell=sh disable=SC2154

case $1 in
deconfig) ip -4 addr flush dev "$interface" ;;
bound | renew)
	ip addr add "$ip/${mask:-24}" dev "$interface"
	[ "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
	[ "$siaddr" ] && echo "$siaddr ${bootfile:-$boot_file}" >/run/initramfs/live/server
	echo "$interface $ip/${mask:-24}" >/run/initramfs/live/lease
	;;
esac
