//! What the stages did and what it cost, for `build --timings` and `--json`.

use serde::Serialize;

use crate::build::STAGES;
use crate::cache::StageReport;
use crate::host::ResourceUse;

/// All runs of one stage; some are run once a package, in the order of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct StageTotal {
    /// Stage name.
    stage: String,
    /// Whether the cache had everything.
    hit: bool,
    hits: u64,
    misses: u64,
    /// Wall-clock seconds; of runs side by side, their sum.
    seconds: f64,
    /// Bytes of all output files.
    bytes: u64,
}

/// One row a stage, in the order of the build's page, then by name.
pub(super) fn totals(reports: &[StageReport]) -> Vec<StageTotal> {
    let mut totals: Vec<StageTotal> = Vec::new();
    for report in reports {
        let at = totals.iter().position(|t| t.stage == report.stage).unwrap_or_else(|| {
            let stage = report.stage.clone();
            totals.push(StageTotal { stage, hit: true, hits: 0, misses: 0, seconds: 0.0, bytes: 0 });
            totals.len() - 1
        });
        let total = &mut totals[at];
        total.hit &= report.hit;
        total.hits += u64::from(report.hit);
        total.misses += u64::from(!report.hit);
        total.seconds += report.seconds;
        total.bytes += report.bytes;
    }
    let rank = |t: &StageTotal| STAGES.iter().position(|name| *name == t.stage).unwrap_or(STAGES.len());
    totals.sort_by(|a, b| (rank(a), &a.stage).cmp(&(rank(b), &b.stage)));
    totals
}

/// A table, and the cost of the whole process so far.
pub(super) fn table(totals: &[StageTotal], used: &ResourceUse) -> String {
    let mut text =
        format!("{:<16} {:>5} {:>7} {:>9} {:>14}\n", "stage", "hits", "misses", "seconds", "bytes");
    for StageTotal { stage, hits, misses, seconds, bytes, .. } in totals {
        text += &format!("{stage:<16} {hits:>5} {misses:>7} {seconds:>9.2} {bytes:>14}\n");
    }
    let ResourceUse { cpu_seconds, peak_memory } = used;
    let mebibytes = peak_memory.div_ceil(1 << 20);
    text + &format!("CPU {cpu_seconds:.2} s with all programs started; peak memory {mebibytes} MiB\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(stage: &str, hit: bool, bytes: u64) -> StageReport {
        StageReport { stage: stage.to_string(), hit, seconds: 0.25, bytes }
    }

    #[test]
    fn stages_are_added_up_in_the_order_of_the_page() {
        let reports = [
            report("initramfs", true, 5),
            report("data-tar", false, 1),
            report("unknown", true, 7),
            report("data-tar", true, 2),
            report("root", false, 9),
        ];
        let expected = "\
stage             hits  misses   seconds          bytes
data-tar             1       1      0.50              3
root                 0       1      0.25              9
initramfs            1       0      0.25              5
unknown              1       0      0.25              7
CPU 1.50 s with all programs started; peak memory 41 MiB
";
        let used = ResourceUse { cpu_seconds: 1.5, peak_memory: (40 << 20) + 1 };
        assert_eq!(table(&totals(&reports), &used), expected);
        let hits: Vec<bool> = totals(&reports).iter().map(|t| t.hit).collect();
        assert_eq!(hits, [false, false, true, true]);
        let mut reversed = reports.to_vec();
        reversed.reverse();
        assert_eq!(totals(&reversed), totals(&reports));
    }
}
