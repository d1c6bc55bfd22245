//! The guest's serial console: everything it printed, and typing into it.
//!
//! A reader waits for output until a deadline, never for a fixed time. Two views
//! are kept: the bytes as they came (also written to a log file as they come) and
//! the text without terminal control sequences (ECMA-48), in which cursor movement
//! starts a new line. Left out: a screen model; what a menu draws over, stays.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A console that prints more than this is broken; memory stays bounded.
const MAX_LOG: usize = 16 << 20;

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The deadline passed.
    Deadline,
    /// The guest closed its end: QEMU exited.
    Ended,
    /// The log reached its largest size.
    TooMuch,
}

/// One serial line with its log.
#[derive(Debug)]
pub struct Serial {
    stream: UnixStream,
    log: Option<File>,
    received: usize,
    text: PlainText,
    /// Offset in the text up to which it was consumed.
    seen: usize,
}

impl Serial {
    /// A console on a connected socket; what arrives is also appended to `log`.
    pub fn new(stream: UnixStream, log: Option<File>) -> Serial {
        Serial { stream, log, received: 0, text: PlainText::default(), seen: 0 }
    }

    /// Everything printed so far, without control sequences.
    pub fn text(&self) -> &str {
        &self.text.out
    }

    /// Waits until `found` recognises something in the text not yet consumed. It
    /// returns what it found and where that ends; the text up to there is consumed.
    ///
    /// # Errors
    /// A broken socket or log file. `Ok(Err(_))` when it did not come.
    pub fn expect<T>(
        &mut self,
        deadline: Instant,
        mut found: impl FnMut(&str) -> Option<(T, usize)>,
    ) -> Result<Result<T, Stopped>> {
        loop {
            if let Some((value, end)) = found(&self.text.out[self.seen..]) {
                self.seen += end;
                return Ok(Ok(value));
            }
            if let Err(stopped) = self.receive(deadline)? {
                return Ok(Err(stopped));
            }
        }
    }

    /// Waits for a piece of text.
    ///
    /// # Errors
    /// As [`Serial::expect`].
    pub fn expect_text(&mut self, wanted: &str, deadline: Instant) -> Result<Result<(), Stopped>> {
        self.expect(deadline, |text| text.find(wanted).map(|at| ((), at + wanted.len())))
    }

    /// Types a line.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n").as_bytes())
    }

    /// Types bytes.
    ///
    /// # Errors
    /// When the guest is gone, or does not read for ten seconds.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let limit = Some(Duration::from_secs(10));
        self.stream.set_write_timeout(limit).context("setting the console's time-out")?;
        self.stream.write_all(bytes).context("typing into the console")
    }

    /// Reads on until the guest closes its end.
    ///
    /// # Errors
    /// As [`Serial::expect`].
    pub fn drain(&mut self, deadline: Instant) -> Result<Stopped> {
        loop {
            if let Err(stopped) = self.receive(deadline)? {
                return Ok(stopped);
            }
        }
    }

    /// Takes in what the guest prints next.
    fn receive(&mut self, deadline: Instant) -> Result<Result<(), Stopped>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err(Stopped::Deadline));
        }
        if self.received > MAX_LOG {
            return Ok(Err(Stopped::TooMuch));
        }
        self.stream.set_read_timeout(Some(left)).context("setting the console's time-out")?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(Err(Stopped::Ended)),
            Ok(n) => self.take_in(&buffer[..n]).map(Ok),
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Err(Stopped::Deadline)),
                ErrorKind::ConnectionReset => Ok(Err(Stopped::Ended)),
                ErrorKind::Interrupted => Ok(Ok(())),
                _ => Err(e).context("reading the console"),
            },
        }
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<()> {
        self.received += bytes.len();
        self.text.push(bytes);
        match &mut self.log {
            Some(log) => log.write_all(bytes).context("writing the console log"),
            None => Ok(()),
        }
    }
}

/// Text without terminal control sequences.
pub fn plain_text(bytes: &[u8]) -> String {
    let mut text = PlainText::default();
    text.push(bytes);
    text.flush();
    text.out
}

/// Where the filter stands inside a control sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// In a two-byte escape such as a character set choice.
    Charset,
    /// In a control sequence, after `ESC [`.
    Control,
    /// In an operating system command, after `ESC ]`, up to BEL or ST.
    Command,
}

/// Strips control sequences byte by byte, so they may be split over reads.
#[derive(Debug, Default)]
struct PlainText {
    out: String,
    state: State,
    /// Bytes of a non-ASCII run not yet decoded.
    pending: Vec<u8>,
}

impl PlainText {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match self.state {
                State::Ground => self.ground(byte),
                State::Escape => match byte {
                    b'[' => State::Control,
                    b']' => State::Command,
                    b'(' | b')' | b'*' | b'+' | b'#' | b'%' => State::Charset,
                    _ => State::Ground,
                },
                State::Charset => State::Ground,
                State::Control => self.control(byte),
                State::Command => match byte {
                    0x07 => State::Ground,
                    0x1b => State::Escape,
                    _ => State::Command,
                },
            };
        }
    }

    fn ground(&mut self, byte: u8) -> State {
        if byte >= 0x80 {
            self.pending.push(byte);
            return State::Ground;
        }
        self.flush();
        match byte {
            0x1b => return State::Escape,
            b'\n' => self.out.push('\n'),
            b'\t' => self.out.push('\t'),
            0x08 if self.out.ends_with(|c| c != '\n') => {
                self.out.pop();
            }
            0x20..=0x7e => self.out.push(char::from(byte)),
            _ => {}
        }
        State::Ground
    }

    fn control(&mut self, byte: u8) -> State {
        match byte {
            // Cursor position, erase in display: a new place on the screen.
            b'H' | b'f' | b'J' if !self.out.is_empty() && !self.out.ends_with('\n') => {
                self.out.push('\n');
                State::Ground
            }
            0x40..=0x7e => State::Ground,
            _ => State::Control,
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.out.push_str(&String::from_utf8_lossy(&self.pending));
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Stdio};

    #[test]
    fn control_sequences_leave_plain_text() {
        let table: &[(&[u8], &str)] = &[
            (b"plain\r\n", "plain\n"),
            (b"\x1b[1;32mgreen\x1b[0m end", "green end"),
            (b"one\x1b[5;1Htwo\x1b[2Jthree", "one\ntwo\nthree"),
            (b"\x1b[2J\x1b[H start", " start"),
            (b"\x1b]0;title\x07text\x1b]0;t\x1b\\more", "textmore"),
            (b"\x1b(Bset\x1b#8 \x1b7x\x1b8", "set x"),
            (b"abc\x08\x08d\n\x08e", "ad\ne"),
            (b"a\0b\x07c\td", "abc\td"),
            ("\u{2554}═ é".as_bytes(), "╔═ é"),
            (b"bad \xff\xfe utf-8", "bad \u{fffd}\u{fffd} utf-8"),
            (b"cut \x1b[1;3", "cut "),
        ];
        for (bytes, expected) in table {
            assert_eq!(plain_text(bytes), *expected, "{bytes:?}");
            let mut split = PlainText::default();
            bytes.chunks(1).for_each(|byte| split.push(byte));
            split.flush();
            assert_eq!(split.out, *expected, "byte by byte {bytes:?}");
        }
    }

    /// A shell script whose input and output are a serial line.
    fn scripted(script: &str) -> (Serial, Child) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let input: OwnedFd = theirs.try_clone().unwrap().into();
        let output: OwnedFd = theirs.into();
        let mut command = crate::host::Tool::new("sh", "tests").unwrap().args(["-c", script]).into_command();
        let child = command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).spawn().unwrap();
        (Serial::new(ours, None), child)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn dialogue_with_a_child() {
        let (mut serial, mut child) =
            scripted("printf 'one two\\nlogin: '; read -r name; echo \"hello $name\"; exit 0");
        assert_eq!(serial.expect_text("one", soon()).unwrap(), Ok(()));
        assert_eq!(serial.expect_text("login: ", soon()).unwrap(), Ok(()));
        serial.send_line("root").unwrap();
        assert_eq!(serial.expect_text("hello root", soon()).unwrap(), Ok(()));
        assert_eq!(serial.expect_text("hello", soon()).unwrap(), Err(Stopped::Ended));
        assert_eq!(serial.text(), "one two\nlogin: hello root\n");
        child.wait().unwrap();
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (mut serial, mut child) = scripted("printf start; read -r line");
        assert_eq!(serial.expect_text("start", soon()).unwrap(), Ok(()));
        let deadline = Instant::now() + Duration::from_millis(50);
        assert_eq!(serial.expect_text("more", deadline).unwrap(), Err(Stopped::Deadline));
        serial.send_line("end").unwrap();
        assert_eq!(serial.drain(soon()).unwrap(), Stopped::Ended);
        child.wait().unwrap();
    }

    #[test]
    fn endless_output_is_cut_off() {
        let (mut serial, mut child) = scripted("exec cat /dev/zero 2>/dev/null");
        assert_eq!(serial.drain(soon()).unwrap(), Stopped::TooMuch);
        drop(serial);
        child.wait().unwrap();
    }
}
