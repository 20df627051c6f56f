//! The Linux process as control's platform: clock, entropy, log, crash record, store.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use config::LogLevel;
use control::{BlockDevice, BlockError, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector};
use log::LevelFilter;

use super::log_ring::LogRing;

/// Size of a store: all that the node makes use of, 4 MiB for configurations and 32 MiB for objects. What was not written
/// takes no room in most file systems.
const STORE_BYTES: u64 = (4 + 32) << 20;

/// Names of files in the state directory.
const STORE_FILE: &str = "store";
const CRASH_FILE: &str = "crash";

/// What control asks of this process.
pub struct HostPlatform {
    log: &'static LogRing,
    start: Instant,
    stages: Vec<BootStage>,
    workers: u16,
    last_crash: Option<String>,
    store: Option<FileStore>,
    reboot: Arc<AtomicBool>,
}

impl HostPlatform {
    /// The platform of a process that began at `start`; `reboot` becomes true when control wants a new one.
    pub fn new(
        log: &'static LogRing,
        start: Instant,
        workers: u16,
        state: Option<&Path>,
        reboot: Arc<AtomicBool>,
    ) -> io::Result<HostPlatform> {
        let (mut last_crash, mut store) = (None, None);
        if let Some(directory) = state {
            fs::create_dir_all(directory)?;
            last_crash = fs::read_to_string(directory.join(CRASH_FILE)).ok();
            store = Some(FileStore::open(&directory.join(STORE_FILE))?);
        }
        Ok(HostPlatform { log, start, stages: Vec::new(), workers, last_crash, store, reboot })
    }

    /// Notes that a stage of the start is reached.
    pub fn reached(&mut self, stage: &str) {
        let at_microseconds = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stages.push(BootStage { stage: stage.to_owned(), at_microseconds });
    }
}

impl Platform for HostPlatform {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn random(&mut self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            panic!("the system has no entropy: {error}");
        }
    }

    fn reboot(&mut self) {
        self.reboot.store(true, Ordering::Relaxed);
    }

    fn unix_ns(&mut self) -> Option<u64> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_nanos()).ok()
    }

    fn last_crash(&self) -> Option<String> {
        self.last_crash.clone()
    }

    fn log_since(&self, from: u64, each: &mut dyn FnMut(u64, &str) -> bool) {
        self.log.since(from, each);
    }

    fn log_next(&self) -> u64 {
        self.log.next()
    }

    fn set_log_level(&mut self, level: LogLevel) {
        log::set_max_level(match level {
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
            LogLevel::Trace => LevelFilter::Trace,
        });
    }

    fn boot_stages(&self) -> Vec<BootStage> {
        self.stages.clone()
    }

    fn memory(&self) -> Memory {
        let kib = |file: &str, field: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line =
                text.lines().find_map(|line| line.strip_prefix(field).map(str::to_owned)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Memory {
            total_bytes: kib("/proc/meminfo", "MemTotal:"),
            free_bytes: kib("/proc/meminfo", "MemAvailable:"),
            heap_used_bytes: kib("/proc/self/status", "RssAnon:"),
        }
    }

    fn cores(&self) -> Vec<Core> {
        let workers = (0..u32::from(self.workers)).map(|id| Core { id, role: CoreRole::Worker });
        workers.chain([Core { id: u32::from(self.workers), role: CoreRole::Control }]).collect()
    }

    fn store(&mut self) -> Option<&mut dyn BlockDevice> {
        self.store.as_mut().map(|store| store as &mut dyn BlockDevice)
    }
}

/// Has every panic leave a record in the state directory, for the next process to show, and end this one: a thread
/// is of no use without the others.
pub fn record_crashes(state: Option<PathBuf>) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        if let Some(directory) = &state {
            let trace = std::backtrace::Backtrace::force_capture();
            let thread = std::thread::current();
            let record = format!("{info}\nthread {}\n{trace}", thread.name().unwrap_or("unnamed"));
            let _ = fs::write(directory.join(CRASH_FILE), record);
        }
        std::process::abort();
    }));
}

/// A file as a device of sectors.
struct FileStore {
    file: File,
    sectors: u64,
}

impl FileStore {
    fn open(path: &Path) -> io::Result<FileStore> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < STORE_BYTES {
            file.set_len(STORE_BYTES)?;
        }
        let sectors = file.metadata()?.len() / SECTOR_BYTES as u64;
        Ok(FileStore { file, sectors })
    }

    fn place(&self, sector: u64) -> Result<u64, BlockError> {
        if sector < self.sectors {
            Ok(sector * SECTOR_BYTES as u64)
        } else {
            Err(BlockError(format!("there is no sector {sector}")))
        }
    }
}

impl BlockDevice for FileStore {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        self.file.read_exact_at(out, self.place(sector)?).map_err(failed)
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        self.file.write_all_at(data, self.place(sector)?).map_err(failed)
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.file.sync_data().map_err(failed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: io::Error) -> BlockError {
    BlockError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_sectors() {
        let path = std::env::temp_dir().join(format!("fairlead-store-{}", std::process::id()));
        let mut store = FileStore::open(&path).expect("the file can be made");
        let last = store.sectors() - 1;
        store.write(last, &[7; SECTOR_BYTES]).expect("the sector exists");
        store.flush().expect("the file can be flushed");
        assert!(store.write(last + 1, &[7; SECTOR_BYTES]).is_err());
        assert!(store.read(u64::MAX, &mut [0; SECTOR_BYTES]).is_err());
        let mut sector = [0; SECTOR_BYTES];
        FileStore::open(&path).expect("it exists").read(last, &mut sector).expect("the sector exists");
        assert_eq!(sector, [7; SECTOR_BYTES]);
        // One from before there were objects grows.
        fs::write(&path, vec![7; 4 << 20]).expect("it can be written");
        let mut store = FileStore::open(&path).expect("it exists");
        assert_eq!(store.sectors(), last + 1);
        store.read(8191, &mut sector).expect("the sector exists");
        assert_eq!(sector, [7; SECTOR_BYTES]);
        fs::remove_file(&path).expect("it exists");
    }
}
