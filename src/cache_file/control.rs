//! Postgres's control file, and the WAL that a clean start needs.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};

use crate::private_file::Directory;

/// States of a cluster that was shut down cleanly.
const SHUT_DOWN: u32 = 1;

/// Upper limit of the length of a checkpoint's record.
const RECORD: u64 = 1024;
/// Length of the header of a WAL page; the first page of a segment has the long one.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// What is read from the control file. The fields are in the same place in all versions from 13 to 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Version of the file's format.
    pub(crate) version: u32,
    /// Version of the catalogs.
    pub(crate) catalog_version: u32,
    /// Whether the cluster was shut down cleanly.
    pub(crate) is_shut_down: bool,
    /// Position of the last checkpoint in the WAL.
    checkpoint: u64,
    timeline: u32,
}

impl Control {
    /// Reads the control file of a data directory.
    ///
    /// # Errors
    /// Errors of the system; a file that is too short.
    pub(crate) fn read(data: &Directory) -> io::Result<Self> {
        let mut head = [0; 52];
        data.directory("global")?.file("pg_control")?.read_exact(&mut head)?;
        let number = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let checkpoint: [u8; 8] = head[32..40].try_into().map_err(|_| ErrorKind::InvalidData)?;
        Ok(Control {
            version: number(8),
            catalog_version: number(12),
            is_shut_down: number(16) == SHUT_DOWN,
            checkpoint: u64::from_ne_bytes(checkpoint),
            timeline: number(48),
        })
    }

    /// Returns the WAL that a start from this checkpoint reads, after a clean shutdown.
    ///
    /// # Errors
    /// Errors of the system; no or strange WAL.
    pub(crate) fn wal(&self, data: &Directory) -> io::Result<Wal> {
        let strange = || io::Error::new(ErrorKind::InvalidData, "the WAL has no segment of a usual size");
        let directory = data.directory("pg_wal")?;
        let segments = directory.entries()?.into_iter().filter(|(name, _)| name.len() == 24);
        let mut head = [0; LONG_HEADER as usize];
        for (name, _) in segments {
            let mut file = directory.file(&name)?;
            let length = file.metadata()?.len();
            file.read_exact(&mut head)?;
            let number = |at: usize| {
                u64::from(u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
            };
            let (segment, page) = (number(32), number(36));
            let usual = |size: u64, most: u64| size.is_power_of_two() && (1 << 10..=most).contains(&size);
            if usual(segment, 1 << 30) && usual(page, 1 << 16) && length == segment {
                return Ok(Wal { checkpoint: self.checkpoint, timeline: self.timeline, segment, page });
            }
        }
        Err(strange())
    }
}

/// The WAL that a clean start needs: the record of the last checkpoint, and the headers of its page and of its
/// segment. Everything else is empty in a new cluster, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wal {
    checkpoint: u64,
    timeline: u32,
    /// Size of a segment.
    segment: u64,
    /// Size of a page.
    page: u64,
}

impl Wal {
    /// Returns whether a segment is needed.
    pub(crate) fn needs(&self, name: &str) -> bool {
        let first = self.checkpoint / self.segment;
        let last = (self.checkpoint + RECORD) / self.segment;
        (first..=last).any(|number| self.name(number) == name)
    }

    fn name(&self, number: u64) -> String {
        let per_log = (1 << 32) / self.segment;
        format!("{:08X}{:08X}{:08X}", self.timeline, number / per_log, number % per_log)
    }

    /// Returns the ranges of a segment that are needed, as positions in the file.
    fn ranges(&self, name: &str) -> Vec<(u64, u64)> {
        let mut ranges = vec![(0, LONG_HEADER)];
        let offset = self.checkpoint % self.segment;
        if self.name(self.checkpoint / self.segment) == name {
            let page = offset - offset % self.page;
            ranges.push((page, page + SHORT_HEADER));
            // The rest of the page is empty behind the record. If the record ends on the next page, that is needed.
            let end = (offset + RECORD).next_multiple_of(self.page).min(self.segment);
            ranges.push((offset, end));
        } else {
            ranges.push((0, self.page));
        }
        ranges
    }

    /// Writes the needed parts of a segment; zeros take the place of the others.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn write(&self, name: &str, file: &mut File, to: &mut impl Write) -> io::Result<()> {
        let ranges = self.ranges(name);
        let mut position = 0;
        let mut page = vec![0; self.page as usize];
        while position < self.segment {
            let end = position + self.page;
            let needed: Vec<(u64, u64)> = ranges
                .iter()
                .map(|(from, until)| ((*from).max(position), (*until).min(end)))
                .filter(|(from, until)| from < until)
                .collect();
            if !needed.is_empty() {
                file.seek(SeekFrom::Start(position))?;
                file.read_exact(&mut page)?;
                for (place, byte) in (position..).zip(page.iter_mut()) {
                    if !needed.iter().any(|(from, until)| (*from..*until).contains(&place)) {
                        *byte = 0;
                    }
                }
            }
            to.write_all(&page)?;
            page.fill(0);
            position = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(checkpoint: u64) -> Wal {
        Wal { checkpoint, timeline: 1, segment: 1 << 24, page: 8192 }
    }

    #[test]
    fn segments_have_the_names_that_postgres_gives_them() {
        assert!(wal(0x0150_0028).needs("000000010000000000000001"));
        assert!(!wal(0x0150_0028).needs("000000010000000000000002"));
        assert!(wal(0x1_0250_0028).needs("000000010000000100000002"));
        // A record may begin at the very end of a segment.
        let at_end = wal(0x01ff_fff0);
        assert!(at_end.needs("000000010000000000000001") && at_end.needs("000000010000000000000002"));
    }

    #[test]
    fn only_headers_and_the_record_are_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("segment");
        std::fs::write(&path, vec![7; 1 << 24]).unwrap();
        let mut written = Vec::new();
        let checkpoint = 0x0150_1028;
        let name = "000000010000000000000001";
        wal(checkpoint).write(name, &mut File::open(&path).unwrap(), &mut written).unwrap();
        assert_eq!(written.len(), 1 << 24);
        let is_left = |at: usize| written[at] == 7;
        assert!(is_left(0) && is_left(39) && !is_left(40));
        // The page begins at 0x500000.
        assert!(is_left(0x50_0000) && is_left(0x50_0017) && !is_left(0x50_0018) && !is_left(0x50_1027));
        assert!(is_left(0x50_1028) && is_left(0x50_1028 + 400) && !is_left(0x50_4000));
        assert!(written[0x50_4000..].iter().all(|b| *b == 0));
    }
}
