//! Where trees come from: Debian packages.
//!
//! ```text
//! host_sources ─► Archive::open ─► Archive::resolve ─► fetch ─┬► unpacked_tree    no script runs
//!  mirrors         signed index     pinned packages    .debs  └► configured_root  mmdebstrap
//! ```
//! apt resolves, downloads and verifies, with private state; the pinned
//! SHA-256 of the signed index is checked again before a package is used. Only
//! `Archive` reads the world; the rest works from the pins of a
//! [`crate::plan::Plan`] and, when the packages are cached, without a network.

mod apt;
mod ar;
mod configured;
pub(crate) mod deb822;
mod failure;
mod fetch;
mod host;
mod index;
mod resolve;
mod unpack;

pub use ar::Deb;
pub use configured::{ROOT_TAR, configured_root, installer, read_configured, volatile_paths};
pub use failure::{ArchiveError, FailureKind};
pub use fetch::{NotCached, fetch};
pub use host::{DEBIAN_KEYRING, HostSources, SecurityPolicy, host_sources, locked_sources};
pub use index::{Candidate, Index, legal_filename, legal_name, legal_version};
pub use resolve::{Archive, UnknownPackage, UnreadArchive, Wanted};
pub use unpack::{DATA_TAR, data_tars, lay_over, merged_root, unpack_into, unpacked_tree};
