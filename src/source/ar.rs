//! Debian packages as files: the ar container of deb(5) and its two tar members.
//!
//! The common ar format: `!<arch>\n`, then a 60-byte header and the content of
//! each member, padded to even length. Only what deb(5) allows is accepted;
//! GNU and BSD long names do not occur there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// deb(5) names three members; tools may add some whose names begin with `_`.
const MAX_MEMBERS: usize = 16;
/// A control file (bytes); Debian's largest is below 64 KiB.
const MAX_CONTROL: u64 = 4 << 20;
/// Memory an .xz member may ask for to be decompressed (bytes); `xz -9` asks for 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// One member of an ar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    offset: u64,
    size: u64,
}

/// An opened .deb.
#[derive(Debug)]
pub struct Deb {
    path: PathBuf,
    file: File,
    control: Member,
    data: Member,
}

impl Deb {
    /// Opens a package and checks its outer format.
    ///
    /// # Errors
    /// A file that is no Debian package of format 2.
    pub fn open(path: &Path) -> Result<Deb> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Deb::parse(path, file).with_context(|| format!("reading the package {}", path.display()))
    }

    fn parse(path: &Path, file: File) -> Result<Deb> {
        let members = members(&file, file.metadata()?.len())?;
        let mut wanted = members.iter().filter(|m| !m.name.starts_with('_'));
        let version = wanted.next().filter(|m| m.name == "debian-binary" && m.size <= 64);
        let version = version.context("its first member is not debian-binary")?;
        let mut text = vec![0; version.size as usize];
        file.read_exact_at(&mut text, version.offset).context("reading debian-binary")?;
        ensure!(text.starts_with(b"2."), "its format is `{}`, not 2", text.trim_ascii().escape_ascii());
        let control = wanted.next().filter(|m| m.name.starts_with("control.tar"));
        let data = wanted.next().filter(|m| m.name.starts_with("data.tar"));
        Ok(Deb {
            control: control.context("it has no control.tar as second member")?.clone(),
            data: data.context("it has no data.tar as third member")?.clone(),
            path: path.to_path_buf(),
            file,
        })
    }

    /// Writes the decompressed data.tar.
    ///
    /// # Errors
    /// Damaged or unknown compression, and the writer's.
    pub fn write_data(&self, out: &mut impl Write) -> Result<()> {
        let mut reader = self.decompressed(&self.data)?;
        let copied = io::copy(&mut reader, out);
        copied.with_context(|| format!("unpacking {} of {}", self.data.name, self.path.display()))?;
        Ok(())
    }

    /// The text of the control file, without maintainer scripts and checksums.
    ///
    /// # Errors
    /// A damaged package, or one without a control file.
    pub fn control(&self) -> Result<String> {
        let read = || -> Result<String> {
            let mut archive = tar::Archive::new(self.decompressed(&self.control)?);
            for entry in archive.entries()?.raw(true) {
                let entry = entry?;
                if matches!(&*entry.path_bytes(), b"./control" | b"control") {
                    ensure!(entry.size() <= MAX_CONTROL, "its control file has {} bytes", entry.size());
                    let mut text = String::new();
                    entry.take(MAX_CONTROL).read_to_string(&mut text)?;
                    return Ok(text);
                }
            }
            bail!("it has no control file")
        };
        read().with_context(|| format!("reading {} of {}", self.control.name, self.path.display()))
    }

    fn decompressed(&self, member: &Member) -> Result<Box<dyn Read + '_>> {
        let raw = Part { file: &self.file, position: member.offset, end: member.offset + member.size };
        let raw = io::BufReader::with_capacity(128 << 10, raw);
        let suffix = member.name.split_once(".tar").map_or("", |(_, suffix)| suffix);
        Ok(match suffix {
            "" => Box::new(raw),
            ".gz" => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
            ".xz" => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)
                    .context("starting the xz decoder")?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(raw, stream))
            }
            ".zst" => Box::new(zstd::stream::read::Decoder::with_buffer(raw)?),
            other => bail!(
                "{}: `{}` is compressed as `{other}`, not as gz, xz or zst",
                self.path.display(),
                member.name
            ),
        })
    }
}

/// A range of a file as a reader; ends at the range's end, or with an error before it.
struct Part<'f> {
    file: &'f File,
    position: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buf[..want], self.position)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        Ok(n)
    }
}

/// The members of an ar archive of `length` bytes, in order.
fn members(file: &File, length: u64) -> Result<Vec<Member>> {
    let mut magic = [0; 8];
    let read = file.read_exact_at(&mut magic, 0);
    ensure!(read.is_ok() && &magic == b"!<arch>\n", "it is no ar archive");
    let mut members = Vec::new();
    let mut position = magic.len() as u64;
    while position < length {
        ensure!(members.len() < MAX_MEMBERS, "it has more than {MAX_MEMBERS} members");
        let mut header = [0; 60];
        file.read_exact_at(&mut header, position)
            .with_context(|| format!("reading the ar header at byte {position}"))?;
        let member = member(&header, position + 60)
            .with_context(|| format!("the ar header at byte {position} is malformed"))?;
        let end = member.offset.checked_add(member.size).filter(|&end| end <= length);
        let end =
            end.with_context(|| format!("`{}` goes beyond the end; the file is cut short", member.name))?;
        position = end + end % 2;
        members.push(member);
    }
    Ok(members)
}

/// name 16, time 12, owner 6, group 6, mode 8, size 10 (decimal, blank-padded), magic 2.
fn member(header: &[u8; 60], offset: u64) -> Option<Member> {
    if &header[58..] != b"`\n" {
        return None;
    }
    let name = std::str::from_utf8(&header[..16]).ok()?.trim_end_matches(' ');
    let name = name.strip_suffix('/').unwrap_or(name);
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    let size = std::str::from_utf8(&header[48..58]).ok()?.trim_end_matches(' ');
    let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
    if !plain || !digits {
        return None;
    }
    Some(Member { name: name.to_string(), offset, size: size.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: &str) -> Vec<u8> {
        format!("{name:16}{:12}{:6}{:6}{:8}{size:10}`\n", 0, 0, 0, 100644).into_bytes()
    }

    fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in parts {
            bytes.extend(header(name, &content.len().to_string()));
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Deb> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.deb");
        std::fs::write(&path, bytes).unwrap();
        Deb::parse(Path::new("x.deb"), File::open(&path).unwrap())
    }

    #[test]
    fn damaged_packages_are_refused_with_the_reason() {
        let v2: &[u8] = b"2.0\n";
        let good = [("debian-binary", v2), ("control.tar", b"c"), ("data.tar", b"d")];
        let with_header = |h: Vec<u8>| [b"!<arch>\n".to_vec(), h].concat();
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (b"".to_vec(), "it is no ar archive"),
            (b"!<arch>".to_vec(), "it is no ar archive"),
            (b"!<arch>\n".to_vec(), "its first member is not debian-binary"),
            (archive(&good[1..]), "its first member is not debian-binary"),
            (archive(&good[..1]), "it has no control.tar as second member"),
            (archive(&good[..2]), "it has no data.tar as third member"),
            (archive(&[good[0], good[2], good[1]]), "it has no control.tar as second member"),
            (archive(&[("debian-binary", b"3.0\n")]), "its format is `3.0`, not 2"),
            (archive(&[("_x", v2); 17]), "it has more than 16 members"),
            (
                with_header(header("debian-binary", "9999999999")),
                "`debian-binary` goes beyond the end; the file is cut short",
            ),
            (with_header(header("debian-binary", "-4")), "the ar header at byte 8 is malformed"),
            (with_header(header("a/b", "0")), "the ar header at byte 8 is malformed"),
            (with_header(header("", "0")), "the ar header at byte 8 is malformed"),
            (with_header(vec![b'x'; 60]), "the ar header at byte 8 is malformed"),
            (with_header(vec![b'x'; 59]), "reading the ar header at byte 8"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(open(&bytes).unwrap_err().to_string(), expected, "{}", bytes.escape_ascii());
        }
        assert!(open(&archive(&good)).is_ok());
        assert!(open(&archive(&[good[0], ("_signature", b"odd"), good[1], good[2]])).is_ok());
    }

    #[test]
    fn every_cut_of_a_package_is_an_error_or_reads_short_data() {
        let whole = archive(&[("debian-binary", b"2.0\n"), ("control.tar", b"c"), ("data.tar", b"dd")]);
        for cut in 0..whole.len() {
            assert!(open(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(whole.len(), open(&whole).unwrap().data.offset as usize + 2);
    }

    #[test]
    fn unknown_or_damaged_compression_is_refused() {
        for (name, expected) in [
            ("data.tar.bz2", "x.deb: `data.tar.bz2` is compressed as `.bz2`, not as gz, xz or zst"),
            ("data.tar.xz", "unpacking data.tar.xz of x.deb"),
            ("data.tar.gz", "unpacking data.tar.gz of x.deb"),
            ("data.tar.zst", "unpacking data.tar.zst of x.deb"),
        ] {
            let deb =
                open(&archive(&[("debian-binary", b"2.0\n"), ("control.tar", b""), (name, b"garbage")]));
            assert_eq!(deb.unwrap().write_data(&mut Vec::new()).unwrap_err().to_string(), expected);
        }
    }
}
