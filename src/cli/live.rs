//! The live line of a terminal: the current step, its duration, and the last line of the build.

use std::time::{Duration, Instant};

use crate::quantity::{count, seconds};
use textwrap::core::display_width;

use super::escape;
use super::screen::cut;

/// What the line says.
pub(super) struct Line {
    /// What is going on; a shorter form where there is no room.
    label: String,
    short: String,
    /// Since when.
    pub(super) since: Option<Instant>,
    /// What it took the last time.
    pub(super) expected: Option<Duration>,
    /// How many migrations were named, and how many there are.
    pub(super) migrations: Option<(usize, usize)>,
    /// The last line of the build.
    pub(super) output: Option<String>,
}

/// Less than this of the build's output says nothing.
const WORTH: usize = 12;

impl Line {
    pub(super) fn new(label: String, short: String) -> Self {
        Line {
            label: escape::line(&label).into_owned(),
            short: escape::line(&short).into_owned(),
            since: Some(Instant::now()),
            expected: None,
            migrations: None,
            output: None,
        }
    }

    /// The line in so many columns. What is worth least goes first: the build's output, the long label,
    /// the time that is expected.
    pub(super) fn fit(&self, width: usize) -> String {
        let elapsed = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let time = seconds(elapsed);
        let expected = self.expected.map(|expected| format!("{time} of about {}", seconds(expected)));
        let progress = self.migrations.map(|(done, total)| {
            let all = count(total, "migration").replace("one", "1");
            format!("  {done} of {all}")
        });
        let progress = progress.unwrap_or_default();
        let times = [expected.as_deref().unwrap_or(&time), &time];
        let forms = [(&self.label, times[0]), (&self.short, times[0]), (&self.short, times[1])];
        let line = |(label, time): (&String, &str)| format!("{label}  {time}{progress}");
        let mut text = forms
            .into_iter()
            .map(line)
            .find(|text| display_width(text) <= width)
            .unwrap_or_else(|| cut(&line(forms[2]), width));
        if let Some(output) = &self.output {
            let room = width.saturating_sub(display_width(&text) + 2);
            if room >= WORTH {
                text += "  ";
                text += &cut(escape::line(output.trim()).as_ref(), room);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let mut line = Line::new(
            "extending template app (be819a32ef1e) from 0123456789ab by 10 migrations".into(),
            "extending app".into(),
        );
        line.since = None;
        line.expected = Some(Duration::from_millis(3200));
        line.migrations = Some((7, 10));
        line.output = Some("  Applying shop.0007_price... OK\x1b[2J".into());
        line
    }

    #[test]
    fn the_line_is_never_wider_than_the_terminal() {
        for width in 1..200 {
            let text = line().fit(width);
            assert!(display_width(&text) <= width, "{width}: {text:?}");
            assert!(!text.contains('\x1b'), "{text:?}");
        }
    }

    #[test]
    fn what_is_worth_least_goes_first() {
        assert_eq!(
            line().fit(160),
            "extending template app (be819a32ef1e) from 0123456789ab by 10 migrations  0 ms of about 3.2 s  7 of 10 migrations  Applying shop.0007_price... OK\\x1b[2J"
        );
        assert_eq!(
            line().fit(80),
            "extending app  0 ms of about 3.2 s  7 of 10 migrations  Applying shop.0007_pric…"
        );
        assert_eq!(line().fit(59), "extending app  0 ms of about 3.2 s  7 of 10 migrations");
        assert_eq!(line().fit(45), "extending app  0 ms  7 of 10 migrations");
    }
}
