//! EFI programs: machine, who signed them, SBAT generations.
//!
//! PE/COFF by the crate `object`, Authenticode by the crate `authenticode`;
//! signatures are named, not verified. A file may carry several. `sbat` sections
//! as in shim's SBAT.md.

use authenticode::{AttributeCertificateIterator, AuthenticodeSignature};
use object::endian::LittleEndian;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile, PeFile32, PeFile64};
use object::{Object, ObjectSection};
use serde::Serialize;

/// An EFI program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Program {
    /// `x64`, `ia32`, `aa64`, or the machine number.
    pub machine: String,
    /// One for each signature.
    pub signers: Vec<Signer>,
    /// Components with their generations, without the first line that describes the format itself.
    pub sbat: Vec<Sbat>,
    /// Why the signatures could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signer {
    /// Common name of the signing certificate, or its serial number when it is not enclosed.
    pub subject: String,
    /// Common name of its issuer.
    pub issuer: String,
}

/// One line of an `.sbat` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sbat {
    /// `shim`, `grub`, `grub.debian`.
    pub component: String,
    /// Its generation.
    pub generation: u32,
}

/// Reads a program, or `None` if the bytes are no PE file.
pub(super) fn read(bytes: &[u8]) -> Option<Program> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    match object::FileKind::parse(bytes) {
        Ok(object::FileKind::Pe32) => PeFile32::parse(bytes).ok().map(|pe| describe(&pe)),
        Ok(object::FileKind::Pe64) => PeFile64::parse(bytes).ok().map(|pe| describe(&pe)),
        _ => None,
    }
}

/// Who signed a program, if a signature is of these very bytes. Whether the
/// signer is trusted is the firmware's and shim's to know.
///
/// # Errors
/// Why it counts as unsigned, as the rest of a sentence.
pub fn signers(bytes: &[u8]) -> Result<Vec<Signer>, String> {
    let program = read(bytes).ok_or("is no EFI program")?;
    if let Some(damage) = program.damage {
        return Err(format!("has a damaged signature ({damage})"));
    }
    if program.signers.is_empty() {
        return Err("is not signed".to_string());
    }
    let is_covered = match object::FileKind::parse(bytes) {
        Ok(object::FileKind::Pe32) => PeFile32::parse(bytes).is_ok_and(|pe| is_covered(&pe)),
        _ => PeFile64::parse(bytes).is_ok_and(|pe| is_covered(&pe)),
    };
    if is_covered { Ok(program.signers) } else { Err("was changed after it was signed".to_string()) }
}

/// Whether some signature's digest is the SHA-256 of the program (Windows
/// Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash").
fn is_covered<P: ImageNtHeaders>(pe: &PeFile<'_, P>) -> bool {
    let mut hash = Hash(sha2::Sha256::default());
    if authenticode::authenticode_digest(pe, &mut hash).is_err() {
        return false;
    }
    let found = sha2::Digest::finalize(hash.0);
    let mut certificates = AttributeCertificateIterator::new(pe).ok().flatten().into_iter().flatten();
    certificates.any(|certificate| {
        let signature = certificate.ok().and_then(|c| c.get_authenticode_signature().ok());
        signature.is_some_and(|signature| signature.digest() == found.as_slice())
    })
}

/// SHA-256 behind the trait of the version of `digest` that `authenticode` hashes through.
struct Hash(sha2::Sha256);

impl digest::Update for Hash {
    fn update(&mut self, data: &[u8]) {
        sha2::Digest::update(&mut self.0, data);
    }
}

fn describe<P: ImageNtHeaders>(pe: &PeFile<'_, P>) -> Program {
    let machine = match pe.nt_headers().file_header().machine.get(LittleEndian) {
        0x014c => "ia32".to_string(),
        0x8664 => "x64".to_string(),
        0xaa64 => "aa64".to_string(),
        other => format!("{other:#06x}"),
    };
    let section = pe.section_by_name(".sbat").and_then(|section| section.data().ok());
    let mut program = Program { machine, sbat: sbat(section.unwrap_or_default()), ..Program::default() };
    debug_assert!(pe.nt_headers().optional_header().magic() != 0);
    match AttributeCertificateIterator::new(pe) {
        Ok(None) => {}
        Ok(Some(certificates)) => {
            for certificate in certificates {
                let signature = certificate.map_err(|e| e.to_string());
                match signature.and_then(|c| c.get_authenticode_signature().map_err(|e| e.to_string())) {
                    Ok(signature) => program.signers.push(signer(&signature)),
                    Err(error) => program.damage = Some(error),
                }
            }
        }
        Err(error) => program.damage = Some(error.to_string()),
    }
    program
}

fn signer(signature: &AuthenticodeSignature) -> Signer {
    let cms::signed_data::SignerIdentifier::IssuerAndSerialNumber(id) = &signature.signer_info().sid else {
        return Signer { subject: "named by key only".to_string(), issuer: String::new() };
    };
    let own = signature.certificates().find(|certificate| {
        certificate.tbs_certificate.serial_number == id.serial_number
            && certificate.tbs_certificate.issuer == id.issuer
    });
    let subject = own.map(|certificate| common_name(&certificate.tbs_certificate.subject.to_string()));
    Signer {
        subject: subject.unwrap_or_else(|| format!("certificate {}", id.serial_number)),
        issuer: common_name(&id.issuer.to_string()),
    }
}

/// The common name in an RFC 4514 string, or all of it.
fn common_name(name: &str) -> String {
    let start = name.find("CN=").filter(|&at| at == 0 || matches!(name.as_bytes()[at - 1], b',' | b'+'));
    let Some(start) = start else {
        return name.to_string();
    };
    let mut text = String::new();
    let mut letters = name[start + 3..].chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            ',' | '+' => break,
            other => text.push(other),
        }
    }
    text
}

fn sbat(section: &[u8]) -> Vec<Sbat> {
    let text = String::from_utf8_lossy(section);
    let lines = text.trim_end_matches('\0').lines();
    let found = lines.filter_map(|line| {
        let mut fields = line.split(',');
        let component = fields.next()?.trim().to_string();
        let generation = fields.next()?.trim().parse().ok()?;
        Some(Sbat { component, generation })
    });
    found.filter(|line| line.component != "sbat").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_unescaped() {
        for (name, expected) in [
            ("CN=Debian Secure Boot CA", "Debian Secure Boot CA"),
            ("C=US,O=X,CN=Microsoft\\, Inc+OU=x", "Microsoft, Inc"),
            ("O=no common name", "O=no common name"),
            ("", ""),
        ] {
            assert_eq!(common_name(name), expected);
        }
    }

    #[test]
    fn sbat_lines_need_a_generation() {
        let found = sbat(b"sbat,1,SBAT Version,sbat,1,url\nshim,4,UEFI shim\nshim.debian,x\n\xff,2\n\0\0");
        let line = |component: &str, generation| Sbat { component: component.to_string(), generation };
        assert_eq!(found, [line("shim", 4), line("\u{fffd}", 2)]);
    }

    #[test]
    fn what_is_no_program_is_none() {
        for bytes in [&b""[..], b"MZ", b"\x7fELF", &[0x4d; 300]] {
            assert_eq!(read(bytes), None);
        }
    }
}
