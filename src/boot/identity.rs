//! The ids a medium carries, all derived from the build id: two builds with
//! different content never share one, two builds of the same content share all.

use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::format::civil_time;

/// Ids of one medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number of the EFI system partition's file system.
    pub fat_serial: u32,
    /// ISO 9660 volume date, `YYYYMMDDhhmmsscc`, what blkid shows as the UUID: the
    /// day of the build, and a time of day that stands for the build id.
    pub volume_date: String,
    /// GPT disk GUID, an RFC 9562 version 8 UUID.
    pub disk_guid: String,
}

impl Identity {
    /// Derives all ids; `timestamp` is the build's, in seconds since 1970-01-01 UTC.
    pub fn new(build_id: &str, timestamp: i64) -> Identity {
        Identity {
            fat_serial: u32::from_be_bytes(prefix(build_id, "fat serial")),
            volume_date: volume_date(u32::from_be_bytes(prefix(build_id, "volume date")), timestamp),
            disk_guid: guid(prefix(build_id, "disk guid")),
        }
    }
}

fn prefix<const N: usize>(build_id: &str, purpose: &str) -> [u8; N] {
    let digest = Sha256::digest(format!("liveiso {purpose} {build_id}"));
    std::array::from_fn(|i| digest[i])
}

fn volume_date(hash: u32, timestamp: i64) -> String {
    let day = civil_time(timestamp);
    let hundredths = hash % (24 * 3600 * 100);
    let (seconds, cc) = (hundredths / 100, hundredths % 100);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{:04}{:02}{:02}{hour:02}{minute:02}{second:02}{cc:02}", day.year, day.month, day.day)
}

fn guid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let [a, b, c, d, e] = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| hex(&bytes[range]));
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_build_id_alone() {
        let one = Identity::new("0123456789abcdef01234567", 1_767_225_600);
        assert_eq!(one, Identity::new("0123456789abcdef01234567", 1_767_225_600));
        let other = Identity::new("0123456789abcdef01234568", 1_767_225_600);
        assert_ne!(one.fat_serial, other.fat_serial);
        assert_ne!(one.volume_date, other.volume_date);
        assert_ne!(one.disk_guid, other.disk_guid);
    }

    #[test]
    fn a_volume_date_is_a_time_of_the_builds_day() {
        assert_eq!(volume_date(0, 1_767_225_599), "2025123100000000");
        assert_eq!(volume_date(8_639_999, 1_767_225_600), "2026010123595999");
        assert_eq!(volume_date(8_640_000, 0), "1970010100000000");
        assert_eq!(guid([0xff; 16]), "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }
}
