# Login shells of the live system.

# busybox's programs behind the real ones, for whatever no package brought.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/liveiso/applets
PS1='\u@\h:\w# '
PAGER=less
export PATH PS1 PAGER
# With these the medium is let go, and a disc ejected.
alias poweroff='/usr/lib/liveiso/stop poweroff' reboot='/usr/lib/liveiso/stop reboot' halt='/usr/lib/liveiso/stop halt'
alias help='less /usr/share/doc/liveiso/help.txt'
