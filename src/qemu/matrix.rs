//! `liveiso test`: boots an image on several machines and says what became of each.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::accelerator::Accelerator;
use super::failure::BootFailure;
use super::guest::{MediumReads, boot_and_report};
use super::machine::{Firmware, Machine, Medium, UsbController};
use super::report::Report;
use crate::format::disk;
use crate::host::Tool;
use crate::tree::display_path;

/// What to boot and what to ask of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOptions {
    /// Firmware to try, each with every medium.
    pub firmwares: Vec<Firmware>,
    /// Media to try.
    pub media: Vec<Medium>,
    /// RAM in MiB for every machine; `None` for each firmware's default.
    pub memory_mib: Option<u32>,
    /// Virtual processors.
    pub cpus: u32,
    /// How guests run; `None` for KVM where it works.
    pub accelerator: Option<Accelerator>,
    /// The controller for USB sticks; `None` for each firmware's default.
    pub usb: Option<UsbController>,
    /// For one boot from power-on to power-off.
    pub time_limit: Duration,
    /// Machines running at once.
    pub jobs: usize,
    /// Least `MemAvailable` at the root shell, in kB.
    pub min_available_kb: Option<u64>,
    /// The directory on the medium that holds the marker file.
    pub install_dir: String,
    /// Receives one directory of logs a machine; `None` to keep none.
    pub log_dir: Option<PathBuf>,
}

impl Default for TestOptions {
    /// The six machines of the test matrix under TCG, two at once, four minutes each.
    fn default() -> TestOptions {
        TestOptions {
            firmwares: Firmware::ALL.to_vec(),
            media: Medium::ALL.to_vec(),
            memory_mib: None,
            cpus: 1,
            accelerator: Some(Accelerator::Tcg),
            usb: None,
            time_limit: Duration::from_secs(240),
            jobs: 2,
            min_available_kb: None,
            install_dir: "liveiso".to_string(),
            log_dir: None,
        }
    }
}

impl TestOptions {
    /// The machines to boot, in the order of the table.
    pub fn machines(&self) -> Vec<Machine> {
        let accelerator = self.accelerator.unwrap_or_else(Accelerator::best);
        let machine = |firmware: Firmware, medium: Medium| {
            let mut machine = Machine::new(firmware, medium);
            machine.memory_mib = self.memory_mib.unwrap_or(machine.memory_mib);
            machine.usb = self.usb.unwrap_or(machine.usb);
            machine.cpus = self.cpus;
            machine.accelerator = accelerator;
            machine
        };
        let of_firmware = |firmware: &Firmware| {
            let firmware = *firmware;
            self.media.iter().map(move |medium| machine(firmware, *medium))
        };
        self.firmwares.iter().flat_map(of_firmware).collect()
    }
}

/// One machine and what became of its boot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cell {
    /// Firmware and medium in one word.
    pub name: String,
    /// What started it.
    pub firmware: Firmware,
    /// What the image was plugged in as.
    pub medium: Medium,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// How it ran.
    pub accelerator: Accelerator,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// What the system said about itself.
    pub report: Option<Report>,
    /// How the boot failed.
    pub failure: Option<BootFailure>,
    /// Budgets that were not met, in words.
    pub over_budget: Vec<String>,
    /// Wall-clock seconds to the root shell.
    pub login_seconds: Option<f64>,
    /// What was read from the medium up to the root shell.
    pub medium_reads: Option<MediumReads>,
    /// Wall-clock seconds of the whole boot.
    pub seconds: f64,
}

impl Cell {
    /// What is wrong, on one line; empty for a boot as it should be.
    pub fn trouble(&self) -> String {
        let failure = self.failure.iter().map(BootFailure::summary);
        failure.chain(self.over_budget.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

/// Boots `image` on every machine of the options; `finished` hears of each as it ends.
///
/// # Errors
/// The host's failures: a missing program or firmware, an image without marker file.
/// A guest's failure is in its [`Cell`].
pub fn test(image: &Path, options: &TestOptions, finished: &(dyn Fn(&Cell) + Sync)) -> Result<Vec<Cell>> {
    let id = build_id(image, &options.install_dir)?;
    let machines = options.machines();
    if machines.is_empty() {
        bail!("nothing to test: name at least one firmware and one medium");
    }
    let queue = Mutex::new(machines.iter().enumerate());
    let work = || -> Result<Vec<(usize, Cell)>> {
        let mut cells = Vec::new();
        loop {
            let next = queue.lock().expect("no panic holds this lock").next();
            let Some((index, machine)) = next else {
                return Ok(cells);
            };
            let cell = boot_cell(image, &id, machine, options)
                .with_context(|| format!("testing {}", machine.name()))?;
            finished(&cell);
            cells.push((index, cell));
        }
    };
    // Each worker starts its guests itself: a guest dies with the thread that started it.
    let results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.clamp(1, machines.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    let mut cells = Vec::new();
    for result in results {
        match result {
            Ok(done) => cells.extend(done?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    cells.sort_by_key(|(index, _)| *index);
    Ok(cells.into_iter().map(|(_, cell)| cell).collect())
}

fn boot_cell(image: &Path, id: &str, machine: &Machine, options: &TestOptions) -> Result<Cell> {
    let started = Instant::now();
    let log_dir = options.log_dir.as_ref().map(|dir| dir.join(machine.name()));
    let boot = boot_and_report(machine, image, Some(id), options.time_limit, log_dir.as_deref())?;
    let over_budget = over_budget(boot.report.as_ref(), options);
    Ok(Cell {
        name: machine.name(),
        firmware: machine.firmware,
        medium: machine.medium,
        memory_mib: machine.memory_mib,
        cpus: machine.cpus,
        accelerator: machine.accelerator,
        passed: boot.failure.is_none() && over_budget.is_empty(),
        report: boot.report,
        failure: boot.failure,
        over_budget,
        login_seconds: boot.login_seconds,
        medium_reads: boot.medium_reads,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn over_budget(report: Option<&Report>, options: &TestOptions) -> Vec<String> {
    let (Some(report), Some(least)) = (report, options.min_available_kb) else {
        return Vec::new();
    };
    if report.mem_available_kb >= least {
        return Vec::new();
    }
    vec![format!("MemAvailable is {} kB, below {least} kB", report.mem_available_kb)]
}

/// The build id of an image: the name of its marker file `/<install_dir>/<id>.id`.
///
/// # Errors
/// An image xorriso cannot read, or one without exactly one marker.
pub fn build_id(image: &Path, install_dir: &str) -> Result<String> {
    if !image.is_file() {
        bail!("{} is not a file; give the .iso to boot", image.display());
    }
    // What is no ISO and no disk image is xorriso's to judge.
    if let Ok(Some(tree)) = disk::read_tree(image) {
        let names = tree.walk().map(|entry| format!("'/{}'", display_path(&entry.path)));
        return only_id(image, install_dir, &names.collect::<Vec<_>>().join("\n"));
    }
    let listing = xorriso(image, "reading the image's marker file")?
        .args(["-find", &format!("/{install_dir}"), "-maxdepth", "1", "-type", "f", "-name", "*.id", "--"])
        .output()
        .with_context(|| format!("looking for the marker file of {}", image.display()))?;
    only_id(image, install_dir, &String::from_utf8_lossy(&listing))
}

/// The id in a list of paths.
fn only_id(image: &Path, install_dir: &str, listing: &str) -> Result<String> {
    let ids: Vec<&str> = listing.lines().filter_map(|line| marker_name(line, install_dir)).collect();
    match ids[..] {
        [id] => Ok(id.to_string()),
        [] => bail!("{} has no marker file /{install_dir}/*.id; is it a liveiso image?", image.display()),
        _ => bail!("{} has several marker files: {}", image.display(), ids.join(", ")),
    }
}

/// xorriso with this image loaded.
pub(super) fn xorriso(image: &Path, purpose: &str) -> Result<Tool> {
    // `stdio:` keeps xorriso from taking the path for a drive.
    let mut device = std::ffi::OsString::from("stdio:");
    device.push(std::path::absolute(image).context("finding the current directory")?);
    let tool = Tool::new("xorriso", purpose)?.args(["-no_rc", "-report_about", "FAILURE"]);
    Ok(tool.args(["-osirrox", "on", "-indev"]).arg(device))
}

/// The id in a line of xorriso's list, `'/liveiso/0123.id'`.
fn marker_name<'a>(line: &'a str, install_dir: &str) -> Option<&'a str> {
    let path = line.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    path.strip_prefix('/')?.strip_prefix(install_dir)?.strip_prefix('/')?.strip_suffix(".id")
}

/// The cells as a table for people.
pub fn table(cells: &[Cell]) -> String {
    let mut rows = vec![
        [
            "machine",
            "MiB",
            "result",
            "login s",
            "read kB",
            "requests",
            "MemAvailable",
            "MemFree",
            "Shmem",
            "modules",
            "",
        ]
        .map(String::from),
    ];
    rows.extend(cells.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = std::iter::zip(row, &widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0 | 2 | 10 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(cell: &Cell) -> [String; 11] {
    let figure = |value: fn(&Report) -> u64| match &cell.report {
        Some(report) => value(report).to_string(),
        None => "-".to_string(),
    };
    let reads = |value: fn(&MediumReads) -> u64| {
        cell.medium_reads.as_ref().map_or("-".to_string(), |reads| value(reads).to_string())
    };
    [
        cell.name.clone(),
        cell.memory_mib.to_string(),
        if cell.passed { "passed" } else { "FAILED" }.to_string(),
        cell.login_seconds.map_or("-".to_string(), |seconds| format!("{seconds:.1}")),
        reads(|reads| reads.bytes >> 10),
        reads(|reads| reads.requests),
        figure(|report| report.mem_available_kb),
        figure(|report| report.mem_free_kb),
        figure(|report| report.shmem_kb),
        figure(|report| report.modules.into()),
        cell.trouble(),
    ]
}

/// The cells as a JUnit XML document.
pub fn junit(image_name: &str, cells: &[Cell]) -> String {
    let failures = cells.iter().filter(|cell| !cell.passed).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">\n",
        xml_text(image_name),
        cells.len()
    );
    for cell in cells {
        let start = format!(
            "  <testcase classname=\"boot\" name=\"{}-{}M\" time=\"{:.1}\"",
            cell.name, cell.memory_mib, cell.seconds
        );
        xml.push_str(&start);
        if cell.passed {
            xml.push_str("/>\n");
        } else {
            let lines = cell.failure.as_ref().map_or("", |failure| failure.last_lines.as_str());
            xml.push_str(&format!(
                ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>\n",
                xml_text(&cell.trouble()),
                xml_text(lines)
            ));
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text for an XML attribute or element; what XML 1.0 cannot carry is replaced.
fn xml_text(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c < ' ' && !['\n', '\t'].contains(&c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::failure::Ending;

    fn cells() -> Vec<Cell> {
        let line = "id:ab root:overlay init:init program:/bin/busybox MemTotal:113996 MemFree:94228 \
                    MemAvailable:98328 Shmem:12 modules:51 kernel:6.1.0-50-686 efi:none";
        let passed = Cell {
            name: "bios-cd".to_string(),
            firmware: Firmware::Bios,
            medium: Medium::Cd,
            memory_mib: 128,
            cpus: 1,
            accelerator: Accelerator::Tcg,
            passed: true,
            report: Some(Report::parse(line).unwrap()),
            failure: None,
            over_budget: Vec::new(),
            login_seconds: Some(31.25),
            medium_reads: Some(MediumReads { bytes: 23_456_789, requests: 612 }),
            seconds: 33.0,
        };
        let failure = BootFailure::classify("GRUB\nerror: <no> \"file\" & more\n", "", Ending::TimeOut(240));
        let failed = Cell {
            name: "uefi-ia32-usb".to_string(),
            firmware: Firmware::UefiIa32,
            medium: Medium::Usb,
            memory_mib: 256,
            passed: false,
            report: None,
            failure: Some(failure),
            login_seconds: None,
            medium_reads: None,
            seconds: 240.04,
            ..passed.clone()
        };
        let options = TestOptions { min_available_kb: Some(98329), ..TestOptions::default() };
        let over = over_budget(passed.report.as_ref(), &options);
        let over = Cell { passed: false, over_budget: over, ..passed.clone() };
        vec![passed, failed, over]
    }

    #[test]
    fn the_table() {
        let expected = "\
machine        MiB  result  login s  read kB  requests  MemAvailable  MemFree  Shmem  modules
bios-cd        128  passed     31.2    22907       612         98328    94228     12       51
uefi-ia32-usb  256  FAILED        -        -         -             -        -      -        -  the boot loader ran, but no kernel: error: <no> \"file\" & more (time-out after 240 s)
bios-cd        128  FAILED     31.2    22907       612         98328    94228     12       51  MemAvailable is 98328 kB, below 98329 kB
";
        assert_eq!(table(&cells()), expected);
    }

    #[test]
    fn the_junit_document() {
        let expected = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuite name=\"a&amp;b.iso\" tests=\"2\" failures=\"1\">
  <testcase classname=\"boot\" name=\"bios-cd-128M\" time=\"33.0\"/>
  <testcase classname=\"boot\" name=\"uefi-ia32-usb-256M\" time=\"240.0\">
    <failure message=\"the boot loader ran, but no kernel: error: &lt;no&gt; &quot;file&quot; &amp; more (time-out after 240 s)\">GRUB
error: &lt;no&gt; &quot;file&quot; &amp; more</failure>
  </testcase>
</testsuite>
";
        assert_eq!(junit("a&b.iso", &cells()[..2]), expected);
    }

    #[test]
    fn budgets() {
        let report = cells().remove(0).report;
        let ask = |least| {
            over_budget(report.as_ref(), &TestOptions { min_available_kb: least, ..Default::default() })
        };
        assert_eq!(ask(None), Vec::<String>::new());
        assert_eq!(ask(Some(98328)), Vec::<String>::new());
        assert_eq!(ask(Some(98329)), ["MemAvailable is 98328 kB, below 98329 kB"]);
    }

    #[test]
    fn machines_of_the_options() {
        let names = |options: &TestOptions| -> Vec<String> {
            options.machines().iter().map(|m| format!("{} {}", m.name(), m.memory_mib)).collect()
        };
        assert_eq!(
            names(&TestOptions::default()),
            [
                "bios-cd 128",
                "bios-usb 128",
                "uefi-x64-cd 256",
                "uefi-x64-usb 256",
                "uefi-ia32-cd 256",
                "uefi-ia32-usb 256"
            ]
        );
        let one = TestOptions {
            firmwares: vec![Firmware::Bios],
            media: vec![Medium::Usb],
            memory_mib: Some(40),
            usb: Some(UsbController::Uhci),
            ..Default::default()
        };
        assert_eq!(names(&one), ["bios-usb 40"]);
        assert_eq!(one.machines()[0].usb, UsbController::Uhci);
    }

    #[test]
    fn marker_lines() {
        let table = [
            ("'/liveiso/0123456789abcdef01234567.id'", Some("0123456789abcdef01234567")),
            ("'/liveiso/sub/x.txt'", None),
            ("'/other/0123.id'", None),
            ("/liveiso/0123.id", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(marker_name(line, "liveiso"), expected, "{line:?}");
        }
    }
}
