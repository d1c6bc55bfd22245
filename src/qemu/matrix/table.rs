//! The cells as a table for people.

use super::Cell;
use crate::qemu::guest::MediumReads;
use crate::qemu::report::Report;

/// The cells as a table for people.
pub fn table(cells: &[Cell]) -> String {
    let mut rows = vec![
        [
            "machine",
            "MiB",
            "result",
            "started by",
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
                0 | 2 | 3 | 11 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(cell: &Cell) -> [String; 12] {
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
        cell.verdict().to_string(),
        cell.report.as_ref().map_or("-".to_string(), Report::started_by),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::matrix::cell::tests::cells;

    #[test]
    fn the_table() {
        let expected = "\
machine        MiB  result   started by  login s  read kB  requests  MemAvailable  MemFree  Shmem  modules
bios-cd        128  passed   BIOS           31.2    22907       612         98328    94228     12       51
uefi-ia32-usb  256  FAILED   -                 -        -         -             -        -      -        -  the boot loader ran, but no kernel: error: <no> \"file\" & more (time-out after 240 s)
bios-cd        128  FAILED   BIOS           31.2    22907       612         98328    94228     12       51  MemAvailable is 98328 kB, below 98329 kB
bios-fat-copy  128  skipped  -                 -        -         -             -        -      -        -  the image is made for UEFI <alone>
";
        assert_eq!(table(&cells()), expected);
    }
}
