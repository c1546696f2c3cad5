//! What this machine can do and this process uses.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

/// The largest resident memory of this process so far, in bytes, from Linux's account of it.
pub fn peak_memory() -> Option<u64> {
    of_status("VmHWM:")
}

/// The resident memory of this process now, in bytes, from Linux's account of it.
pub fn resident_memory() -> Option<u64> {
    of_status("VmRSS:")
}

/// How many processes of this process's control group the system has ended for want of memory.
pub fn memory_kills() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let events = Path::new("/sys/fs/cgroup").join(group).join("memory.events");
    let events = std::fs::read_to_string(events).ok()?;
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// A figure of `/proc/self/status`, in bytes.
fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The GPUs that NVIDIA's driver knows of, by their models; asking does not wake them.
pub fn gpus() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let model = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_string())
    };
    let mut all: Vec<String> = entries.filter_map(model).collect();
    all.sort();
    all
}

/// Whether standard error goes to systemd's journal.
pub fn has_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let found = stderr.and_then(|stderr| File::from(stderr).metadata());
    found.is_ok_and(|found| is_stream(&stream, found.dev(), found.ino()))
}

/// Whether `stream`, in the form of `$JOURNAL_STREAM`, is the file of this device and inode. A
/// program whose standard error was redirected still has the variable.
pub fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let numbers = stream.split_once(':');
    let numbers = numbers.and_then(|(of, number)| Some((of.parse().ok()?, number.parse().ok()?)));
    numbers == Some((device, inode))
}

/// The rate at which all cores together read memory, in 1e9 bytes a second: the best of several.
pub fn read_bandwidth() -> f64 {
    /// Larger than the caches of most processors.
    const WORDS: usize = 1 << 26;
    const REPEATS: usize = 5;
    let words: Vec<u64> = (0..WORDS as u64).into_par_iter().collect();
    let part = WORDS.div_ceil(4 * rayon::current_num_threads());
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        let sums = words.par_chunks(part).map(|part| part.iter().fold(0, |a: u64, b| a ^ b));
        std::hint::black_box(sums.reduce(|| 0, |a, b| a ^ b));
        best = best.min(start.elapsed().as_secs_f64());
    }
    size_of_val(words.as_slice()) as f64 / best / 1e9
}
