//! A network block device server for one read-only export, after the protocol's
//! document (NBD doc/proto.md): fixed newstyle negotiation with the options GO
//! and EXPORT_NAME, simple replies to READ and DISC.

use std::fs::File;
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
/// HAS_FLAGS and READ_ONLY.
const FLAGS: u16 = 3;

/// Serves `image` as the export `name` on loopback as long as the test runs; returns the port.
pub fn serve(image: &Path, name: &str) -> u16 {
    let image = File::open(image).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = name.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (image, name) = (image.try_clone().unwrap(), name.clone());
            // A client that hangs up ends its own connection only.
            std::thread::spawn(move || stream.and_then(|mut stream| converse(&mut stream, &image, &name)));
        }
    });
    port
}

fn word<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn converse(stream: &mut TcpStream, image: &File, name: &str) -> Result<()> {
    let size = image.metadata()?.len();
    stream.set_nodelay(true)?;
    // FIXED_NEWSTYLE and NO_ZEROES on offer.
    stream.write_all(&[&b"NBDMAGIC"[..], &OPTION_MAGIC.to_be_bytes(), &3_u16.to_be_bytes()].concat())?;
    let client = u32::from_be_bytes(word(stream)?);
    loop {
        assert_eq!(u64::from_be_bytes(word(stream)?), OPTION_MAGIC);
        let option = u32::from_be_bytes(word(stream)?);
        let mut data = vec![0; u32::from_be_bytes(word(stream)?) as usize];
        stream.read_exact(&mut data)?;
        let reply = |kind: u32, data: &[u8]| {
            let length = (data.len() as u32).to_be_bytes();
            let head = [&OPTION_REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length];
            [&head.concat()[..], data].concat()
        };
        let size_and_flags = [&size.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
        match option {
            1 if data == name.as_bytes() => {
                stream.write_all(&size_and_flags)?;
                stream.write_all(if client & 2 == 0 { &[0; 124] } else { &[] })?;
                break;
            }
            7 if data[4..].starts_with(name.as_bytes()) => {
                stream.write_all(&reply(3, &[&[0, 0], &size_and_flags[..]].concat()))?;
                stream.write_all(&reply(1, &[]))?;
                break;
            }
            7 => stream.write_all(&reply(0x8000_0006, &[]))?,
            _ => stream.write_all(&reply(0x8000_0001, &[]))?,
        }
    }
    loop {
        assert_eq!(u32::from_be_bytes(word(stream)?), REQUEST);
        let [_, _, _, kind] = word::<4>(stream)?;
        let handle = word::<8>(stream)?;
        let offset = u64::from_be_bytes(word(stream)?);
        let mut data = vec![0; u32::from_be_bytes(word(stream)?) as usize];
        match kind {
            0 => image.read_exact_at(&mut data, offset)?,
            2 => return Ok(()),
            other => panic!("NBD request {other} to a read-only export"),
        }
        stream.write_all(&[&SIMPLE_REPLY.to_be_bytes()[..], &[0; 4], &handle, &data].concat())?;
    }
}
