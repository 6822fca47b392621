//! Checks of the disk, if it is this machine's.

use std::path::Path;

use super::Check;
use super::registry::Ours;
use crate::config::Strategy;
use crate::pg::sql::CopyStrategy;
use crate::private_server::disk::{self, Disk, FileSystem};
use crate::quantity::{seconds, size};
use crate::registry::measurement::Measurement;
use std::time::Duration;

pub(super) fn look(data: &str) -> Option<Disk> {
    disk::look(Path::new(data))
}

pub(super) fn judge_file_system(disk: Option<Disk>, major: u32, strategy: Strategy) -> Option<Check> {
    let name = "file system";
    Some(match disk?.file_system {
        FileSystem::Ext4WithoutJournal { spread: false } => Check::warning(
            name,
            "ext4 without a journal: repeated CREATE and DROP become 10 times slower",
            "as the owner of the data directory: chattr +T base",
        ),
        FileSystem::Ext4WithoutJournal { spread: true } => {
            Check::ok(name, "ext4 without a journal, with +T set")
        }
        FileSystem::Reflink if major >= 18 && !matches!(strategy, Strategy::Reflink | Strategy::Auto) => {
            Check::warning(
                name,
                "it supports reflinks, by which PostgreSQL 18 may copy databases of any size quickly",
                "set `[clone] strategy = \"auto\"`, which measures it, or run `pgstencil bench`",
            )
        }
        FileSystem::Reflink | FileSystem::Other => Check::ok(name, "it does not slow copies down"),
    })
}

/// Compares the strategy of the config with the measurements on this server.
pub(super) fn judge_strategy(wanted: Strategy, measured: &[Measurement]) -> Check {
    let name = "copy strategy";
    let word = match wanted {
        Strategy::Auto if measured.is_empty() => {
            return Check::ok(name, "auto, by size, since no copies were measured (`pgstencil bench` does)");
        }
        Strategy::Auto => return Check::ok(name, "auto, by measurements on this server"),
        Strategy::WalLog => CopyStrategy::WalLog,
        Strategy::FileCopy => CopyStrategy::FileCopy,
        Strategy::Reflink => CopyStrategy::Reflink,
    };
    let beaten = measured.iter().filter(|m| m.is(word)).find_map(|own| {
        let best = measured
            .iter()
            .filter(|m| (m.bytes, m.files) == (own.bytes, own.files))
            .min_by(|a, b| a.millis.total_cmp(&b.millis))?;
        (best.millis < 0.8 * own.millis).then_some((own, best))
    });
    match beaten {
        None => Check::ok(name, format!("{}, as set in the config", word.as_str())),
        Some((own, best)) => Check::warning(
            name,
            format!(
                "`strategy = \"{}\"` {}, and {} takes {} for {}",
                own.strategy,
                match own.millis.is_finite() {
                    true => format!("takes {}", seconds(Duration::from_secs_f64(own.millis / 1e3))),
                    false => "does not work on this server".to_owned(),
                },
                best.strategy,
                seconds(Duration::from_secs_f64(best.millis.max(0.0) / 1e3)),
                size(own.bytes)
            ),
            Strategy::USE_AUTO,
        ),
    }
}

/// Compares the budget of the templates with their size and the free space.
pub(super) fn judge_budget(disk: Option<Disk>, ours: &Ours, max_size: Option<u64>) -> Check {
    const MEGA: u64 = 1_000_000;
    let bytes = |bytes: u64| size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let name = "disk budget";
    let used = ours.template_bytes;
    let words = format!("templates take {}", bytes(used));
    if let Some(disk) = disk
        && disk.free < ours.largest_bytes.saturating_mul(2).max(100 * MEGA)
    {
        return Check::problem(
            name,
            format!(
                "{words}, and only {} are free: the next copy may fill the disk, which can stop the server",
                bytes(disk.free)
            ),
            "free space on that disk, or evict templates: `pgstencil evict --all`",
        );
    }
    match (max_size, disk) {
        (Some(max), _) if used > max => Check::warning(
            name,
            format!(
                "{words}, more than `max_size` ({}), since pinned and kept templates are not evicted",
                bytes(max)
            ),
            "unpin templates, lower `[eviction] keep`, or raise `max_size`",
        ),
        (Some(max), Some(disk)) if max > used.saturating_add(disk.free) => Check::warning(
            name,
            format!(
                "{words}, and `max_size` ({}) allows more than fits on the disk ({} are free)",
                bytes(max),
                bytes(disk.free)
            ),
            format!("max_size = \"{}MB\"", (used + disk.free / 2) / MEGA),
        ),
        (None, _) => Check::ok(name, format!("{words}; `max_size` is unlimited")),
        (Some(max), _) => Check::ok(name, format!("{words} of {}", bytes(max))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn disk(free: u64, file_system: FileSystem) -> Option<Disk> {
        Some(Disk { free, total: 100 * GB, file_system })
    }

    #[test]
    fn budgets() {
        let ours = Ours { template_bytes: 10 * GB, largest_bytes: GB, ..Ours::default() };
        let status = |free: Option<u64>, max| {
            let disk = free.and_then(|free| disk(free, FileSystem::Other));
            judge_budget(disk, &ours, max).status
        };
        assert_eq!(status(Some(50 * GB), Some(20 * GB)), Status::Ok);
        assert_eq!(status(None, Some(20 * GB)), Status::Ok);
        assert_eq!(status(None, None), Status::Ok);
        assert_eq!(status(Some(50 * GB), Some(5 * GB)), Status::Warning);
        assert_eq!(status(Some(5 * GB), Some(20 * GB)), Status::Warning);
        assert_eq!(status(Some(GB), None), Status::Problem);
    }

    #[test]
    fn strategies() {
        let measured =
            |strategy, millis| Measurement { strategy, bytes: 100_000_000, files: 400, millis, samples: 7 };
        let all = [measured(CopyStrategy::WalLog, 190.0), measured(CopyStrategy::FileCopy, 50.0)];
        let status = |wanted, measured: &[Measurement]| judge_strategy(wanted, measured).status;
        assert_eq!(status(Strategy::Auto, &all), Status::Ok);
        assert_eq!(status(Strategy::FileCopy, &all), Status::Ok);
        assert_eq!(status(Strategy::WalLog, &all), Status::Warning);
        assert_eq!(status(Strategy::WalLog, &[]), Status::Ok);
    }

    #[test]
    fn file_systems() {
        let status = |file_system, major, strategy| {
            judge_file_system(disk(GB, file_system), major, strategy).map(|c| c.status)
        };
        let ext4 = |spread| FileSystem::Ext4WithoutJournal { spread };
        assert_eq!(status(ext4(false), 15, Strategy::Auto), Some(Status::Warning));
        assert_eq!(status(ext4(true), 15, Strategy::Auto), Some(Status::Ok));
        assert_eq!(status(FileSystem::Reflink, 18, Strategy::FileCopy), Some(Status::Warning));
        assert_eq!(status(FileSystem::Reflink, 18, Strategy::Auto), Some(Status::Ok));
        assert_eq!(status(FileSystem::Reflink, 18, Strategy::Reflink), Some(Status::Ok));
        assert_eq!(status(FileSystem::Reflink, 17, Strategy::Auto), Some(Status::Ok));
        assert_eq!(judge_file_system(None, 18, Strategy::Auto), None);
    }
}
