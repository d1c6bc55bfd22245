//! Several machines at once, as many as processors and memory allow.

use std::sync::{Condvar, Mutex};

use anyhow::Result;

/// What QEMU takes besides the guest's RAM: translated code, firmware, itself (MiB).
const OVERHEAD_MIB: u64 = 224;

#[derive(Default)]
struct State {
    next: usize,
    running: usize,
    used_mib: u64,
    failed: bool,
}

/// Does `work` for each of the machines, whose RAM in MiB is `memory`, in their
/// order, at most `jobs` at once and no more than fit in `limit_mib`; one always
/// runs. Results come in the order of the machines. After an error no more are started.
///
/// # Errors
/// The first one, in the order of the machines.
pub(super) fn side_by_side<T: Send>(
    memory: &[u32],
    jobs: usize,
    limit_mib: u64,
    work: &(dyn Fn(usize) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    let state = Mutex::new(State::default());
    let changed = Condvar::new();
    let lock = || state.lock().expect("no panic holds this lock");
    let need = |index: usize| u64::from(memory[index]) + OVERHEAD_MIB;
    let take = || {
        let mut state = lock();
        loop {
            let index = state.next;
            if index >= memory.len() || state.failed {
                return None;
            }
            if state.running == 0 || state.used_mib + need(index) <= limit_mib {
                state.next += 1;
                state.running += 1;
                state.used_mib += need(index);
                return Some(index);
            }
            state = changed.wait(state).expect("no panic holds this lock");
        }
    };
    // Each worker starts its guests itself: a guest dies with the thread that started it.
    let worker = || {
        let mut done = Vec::new();
        while let Some(index) = take() {
            let result = work(index);
            let mut state = lock();
            state.running -= 1;
            state.used_mib -= need(index);
            state.failed |= result.is_err();
            drop(state);
            changed.notify_all();
            done.push((index, result));
        }
        done
    };
    let finished = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, memory.len().max(1))).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    let mut results = Vec::new();
    for worker in finished {
        match worker {
            Ok(done) => results.extend(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use anyhow::bail;

    use super::*;

    /// Most guest memory at once, and the results.
    fn most(memory: &[u32], jobs: usize, limit_mib: u64) -> (u64, Vec<usize>) {
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let results = side_by_side(memory, jobs, limit_mib, &|index| {
            let size = u64::from(memory[index]) + OVERHEAD_MIB;
            most.fetch_max(now.fetch_add(size, SeqCst) + size, SeqCst);
            for _ in 0..100 {
                std::thread::yield_now();
            }
            now.fetch_sub(size, SeqCst);
            Ok(index)
        });
        (most.into_inner(), results.unwrap())
    }

    #[test]
    fn memory_and_jobs_are_kept() {
        let memory = [128, 256, 128, 512, 32];
        for (jobs, limit) in [(1, u64::MAX), (2, 900), (8, 700), (8, 0)] {
            let (most, results) = most(&memory, jobs, limit);
            assert_eq!(results, [0, 1, 2, 3, 4], "{jobs} {limit}");
            assert!(most <= limit.max(512 + OVERHEAD_MIB), "{jobs} {limit}: {most}");
        }
        assert_eq!(most(&[], 2, 1).1, Vec::<usize>::new());
    }

    #[test]
    fn an_error_ends_the_row() {
        let started = AtomicU64::new(0);
        let result = side_by_side(&[1; 100], 1, 0, &|index| {
            started.fetch_add(1, SeqCst);
            if index == 2 {
                bail!("no disk left")
            }
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "no disk left");
        assert_eq!(started.into_inner(), 3);
    }
}
