# The two commands of the README, and what developers use daily.
# Everything a command needs is installed by it; only that step uses sudo.

PROFILE ?= profiles/rescue
OUT ?= out
CARGO ?= cargo
# What a build needs on the host, and what the tests need besides.
BUILD_PACKAGES = gcc libc6-dev xorriso mmdebstrap arch-test uidmap apt ca-certificates debian-archive-keyring
TEST_PACKAGES = qemu-system-x86 ovmf ovmf-ia32 squashfs-tools squashfs-tools-ng mtools dosfstools fdisk cpio kmod \
	shellcheck faketime busybox-static e2fsprogs exfatprogs gnupg fakeroot python3 attr xz-utils zstd binutils

.PHONY: iso test check fast-tests bench deps test-deps clean

iso: deps
	$(CARGO) build --release --locked
	target/release/liveiso build $(PROFILE) -o $(OUT)

test: deps test-deps
	$(CARGO) test --release --locked

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --release --locked --no-deps --quiet

bench: deps test-deps
	$(CARGO) bench --locked

deps:
	@./install-missing $(BUILD_PACKAGES)

test-deps:
	@./install-missing $(TEST_PACKAGES)

clean:
	rm -rf out target
