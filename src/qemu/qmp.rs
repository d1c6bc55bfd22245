//! The QEMU Machine Protocol: one JSON object a line in each direction.
//!
//! Used to take screenshots, to plug devices in a running machine and to end it.
//! Events are read and dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest reply we take; QEMU's are a few hundred bytes.
const MAX_LINE: u64 = 1 << 20;

/// QEMU answers commands at once unless it hangs.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// A connected monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes the greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// A peer that does not speak QMP.
    pub fn new(stream: UnixStream) -> Result<Qmp> {
        stream.set_read_timeout(Some(REPLY_TIME)).context("setting the monitor's time-out")?;
        stream.set_write_timeout(Some(REPLY_TIME)).context("setting the monitor's time-out")?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        let greeting = qmp.read_line()?;
        if greeting.get("QMP").is_none() {
            bail!("the monitor greets with {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    ///
    /// # Errors
    /// QEMU's own words when it refuses; trouble with the socket.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(line.as_bytes()).with_context(|| format!("sending {command}"))?;
        loop {
            let mut reply = self.read_line().with_context(|| format!("waiting for {command}"))?;
            if let Some(error) = reply.get("error") {
                bail!("QEMU refuses {command}: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
            if let Some(value) = reply.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Writes what the machine's screen shows as a PNG file.
    ///
    /// # Errors
    /// A path QEMU cannot write, a QEMU before 7.1.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        let name = file.to_str().with_context(|| format!("{} is not UTF-8", file.display()))?;
        self.execute("screendump", json!({ "filename": name, "format": "png" }))?;
        Ok(())
    }

    fn read_line(&mut self) -> Result<Value> {
        let mut line = String::new();
        (&mut self.stream).take(MAX_LINE).read_line(&mut line).context("reading the monitor")?;
        if line.is_empty() {
            bail!("QEMU closed its monitor");
        }
        serde_json::from_str(&line).with_context(|| format!("understanding the monitor's {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_refusals() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let script = [
            r#"{"QMP": {"version": {}}}"#,
            r#"{"return": {}}"#,
            r#"{"event": "RESET"}"#,
            r#"{"return": {"status": "running"}}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#,
        ];
        theirs.write_all(script.join("\n").as_bytes()).unwrap();
        theirs.write_all(b"\n").unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        assert_eq!(qmp.execute("query-status", json!({})).unwrap(), json!({ "status": "running" }));
        let refused = qmp.execute("device_del", json!({ "id": "x" })).unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses device_del: no such device");
        drop(qmp);
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).unwrap();
        assert_eq!(
            sent,
            "{\"arguments\":{},\"execute\":\"qmp_capabilities\"}\n\
             {\"arguments\":{},\"execute\":\"query-status\"}\n\
             {\"arguments\":{\"id\":\"x\"},\"execute\":\"device_del\"}\n"
        );
    }

    #[test]
    fn a_stranger_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"hello\": 1}\n").unwrap();
        assert_eq!(Qmp::new(ours).unwrap_err().to_string(), "the monitor greets with {\"hello\":1}");
    }
}
