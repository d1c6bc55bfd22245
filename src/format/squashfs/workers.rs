//! Blocks compressed on every core, handed back in the order they were given.
//!
//! One thread reads and writes, the others compress. Each block brings its own
//! reply channel; the first one asked for is the first one waited for, so the
//! order needs no sequence numbers and the result does not depend on how many
//! threads there are. The number of blocks under way is bounded, and their
//! buffers are used again, so memory does not grow with the tree.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::Scope;

use anyhow::{Context, Result, anyhow};

use super::block::Block;
use super::cache::{BlockCache, Keys};
use super::compress::{Codec, Settings};

/// Raw bytes of the blocks under way may take this much, and their results as much again.
const IN_FLIGHT: usize = 8 << 20;

struct Job {
    block: Block,
    reply: SyncSender<Result<Block>>,
}

/// The queue in front of the compressing threads; `T` says what each block is for.
pub(super) struct Workers<T> {
    jobs: SyncSender<Job>,
    under_way: VecDeque<(T, Receiver<Result<Block>>)>,
    limit: usize,
    spare: Vec<Block>,
}

impl<T> Workers<T> {
    /// Starts `threads` threads, which end when the queue is dropped.
    ///
    /// # Errors
    /// When the host refuses a thread or the compressor its level.
    pub fn start<'s, 'c: 's>(
        scope: &'s Scope<'s, '_>,
        threads: usize,
        settings: Settings,
        cache: Option<&'c BlockCache>,
    ) -> Result<Workers<T>> {
        let limit = (IN_FLIGHT / settings.block_size as usize).clamp(threads + 2, 8 * threads + 2);
        let (jobs, queue) = sync_channel(limit);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let queue = queue.clone();
            let mut packer =
                Packer { codec: Codec::new(settings)?, cache: cache.map(|c| (c, Keys::new(settings))) };
            std::thread::Builder::new()
                .name(format!("squashfs-{n}"))
                .spawn_scoped(scope, move || packer.serve(&queue))
                .context("starting a compression thread")?;
        }
        Ok(Workers { jobs, under_way: VecDeque::new(), limit, spare: Vec::new() })
    }

    /// An empty block, from the buffers that are no longer needed.
    pub fn block(&mut self) -> Block {
        let mut block = self.spare.pop().unwrap_or_default();
        block.clear();
        block
    }

    /// Takes the buffers of a block that is written.
    pub fn recycle(&mut self, block: Block) {
        self.spare.push(block);
    }

    /// Queues a block; [`Workers::next`] gives it back when its turn comes.
    ///
    /// # Errors
    /// When the threads are gone.
    pub fn submit(&mut self, target: T, block: Block) -> Result<()> {
        let (reply, receiver) = sync_channel(1);
        self.jobs.send(Job { block, reply }).map_err(|_| anyhow!("the compression threads ended early"))?;
        self.under_way.push_back((target, receiver));
        Ok(())
    }

    /// Whether a block must be taken back before the next one is submitted.
    pub fn is_full(&self) -> bool {
        self.under_way.len() >= self.limit
    }

    /// The oldest block under way, compressed; `None` when there is none.
    ///
    /// # Errors
    /// What compressing it returned.
    pub fn next(&mut self) -> Result<Option<(T, Block)>> {
        let Some((target, receiver)) = self.under_way.pop_front() else {
            return Ok(None);
        };
        let block = receiver.recv().context("a compression thread ended early")??;
        Ok(Some((target, block)))
    }
}

/// What one thread works with.
struct Packer<'c> {
    codec: Codec,
    cache: Option<(&'c BlockCache, Keys)>,
}

impl Packer<'_> {
    fn serve(&mut self, queue: &Mutex<Receiver<Job>>) {
        loop {
            // The lock is held while waiting; the others wait for the lock instead.
            let Ok(job) = queue.lock().map(|queue| queue.recv()) else { return };
            let Ok(Job { mut block, reply }) = job else { return };
            let result = self.pack(&mut block).map(|()| block);
            // Nobody waits any more when writing has failed; then there is nothing to report.
            let _ = reply.send(result);
        }
    }

    fn pack(&mut self, block: &mut Block) -> Result<()> {
        block.unknown = None;
        if let Some((cache, keys)) = &self.cache {
            let key = keys.key(block);
            match cache.get(&key, &mut block.packed) {
                Some(true) => {
                    block.is_compressed = true;
                    return Ok(());
                }
                Some(false) => {
                    block.is_compressed = false;
                    return block.load();
                }
                None => block.unknown = Some(key),
            }
        }
        block.compress(&mut self.codec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Compression;

    #[test]
    fn blocks_come_back_in_order_from_any_number_of_threads() {
        let settings = Settings { compression: Compression::Lz4, level: 1, block_size: 4096 };
        for threads in [1, 2, 7] {
            let order: Vec<u32> = std::thread::scope(|scope| {
                let mut workers = Workers::start(scope, threads, settings, None).unwrap();
                let mut order = Vec::new();
                for n in 0..500_u32 {
                    if workers.is_full() {
                        order.push(workers.next().unwrap().unwrap().0);
                    }
                    let mut block = workers.block();
                    block.append(&vec![n as u8; 1 + (n as usize * 37) % 4096]);
                    workers.submit(n, block).unwrap();
                }
                while let Some((n, block)) = workers.next().unwrap() {
                    assert_eq!(block.is_compressed, block.len() > 12, "{n}");
                    order.push(n);
                }
                order
            });
            assert_eq!(order, (0..500).collect::<Vec<_>>());
        }
    }
}
