# The two commands of the README, and what developers use daily.
# Everything a command needs is installed by it; only that step uses sudo.

PROFILE ?= profiles/rescue
OUT ?= out
CARGO ?= cargo
# What a build needs on the host, and what the tests need besides.
BUILD_PACKAGES = gcc libc6-dev xorriso mmdebstrap arch-test uidmap apt ca-certificates debian-archive-keyring
TEST_PACKAGES = qemu-system-x86 ovmf ovmf-ia32 squashfs-tools squashfs-tools-ng mtools dosfstools fdisk gdisk syslinux \
	cpio kmod shellcheck faketime busybox-static e2fsprogs exfatprogs erofs-utils ntfs-3g gnupg fakeroot python3 \
	cryptsetup-bin acl attr xz-utils zstd binutils bzip2 lz4 lzop

.PHONY: iso test check fast-tests bench fuzz deps test-deps clean

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

# Needs `cargo install cargo-fuzz`, whose flags stable compilers take with RUSTC_BOOTSTRAP. Every target
# of tests/fuzz/fuzz_targets, or TARGET alone; what is found lies in tests/fuzz/artifacts/TARGET afterwards.
FUZZ_SECONDS ?= 60
TARGET ?= $(notdir $(basename $(wildcard tests/fuzz/fuzz_targets/*.rs)))
fuzz:
	tests/fuzz/make-seeds
	set -e; for target in $(TARGET); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -timeout=10 -max_len=262144; \
	done

deps:
	@./install-missing $(BUILD_PACKAGES)

test-deps:
	@./install-missing $(TEST_PACKAGES)

clean:
	rm -rf out target
